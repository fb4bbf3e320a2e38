//! The macro for closed sets of words. Each set has one list: it gives the variants, their names,
//! and both directions of serialization.

/// Defines an enum whose variants are serialized by the given names.
macro_rules! words {
    ($(#[$about:meta])* pub enum $Set:ident { $($(#[$doc:meta])* $Word:ident = $name:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $Set {
            $($(#[$doc])* #[serde(rename = $name)] $Word,)+
        }

        impl $Set {
            /// Every word of the set, in its order.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$Word),+];

            /// Returns the name that files, requests and answers use.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$Word => $name,)+
                }
            }

            /// Returns the word with this name.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|word| word.as_str() == name)
            }
        }

        impl std::fmt::Display for $Set {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(crate) use words;

#[cfg(test)]
mod tests {
    use crate::detail::AgentState;

    #[test]
    fn a_word_is_serialized_and_read_back_by_its_name() {
        for state in AgentState::ALL {
            let text = serde_json::to_string(&state).expect("JSON");
            assert_eq!(text, format!("\"{state}\""));
            let again: AgentState = serde_json::from_str(&text).expect("a state");
            let parsed = AgentState::parse(state.as_str());
            assert_eq!((again, parsed), (state, Some(state)));
        }
        assert_eq!(AgentState::parse("TookOver"), None);
    }
}
