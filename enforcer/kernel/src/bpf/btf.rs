//! The kernel's type information, as far as offsets need it. It is walked in
//! place: building a tree of its hundred thousand types would cost more memory
//! than the rest of the agent.
//!
//! Format: Documentation/bpf/btf.rst.

use std::io;

const STRUCT: u32 = 4;
const UNION: u32 = 5;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const TYPEDEF: u32 = 8;
const FUNC_PROTO: u32 = 13;

#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    #[error("read {path} (this kernel was built without CONFIG_DEBUG_INFO_BTF?)")]
    Read {
        path: &'static str,
        source: io::Error,
    },
    #[error("parse the kernel's BTF: {0}")]
    Malformed(&'static str),
    #[error("find `{0}` in the kernel's BTF")]
    Missing(String),
    #[error("find `{0}` in the kernel's BTF: there is more than one")]
    Ambiguous(String),
}

/// The kernel's types.
#[derive(Debug)]
pub(super) struct KernelTypes {
    bytes: Vec<u8>,
    /// The offset of each type, at the index of its id less one.
    types: Vec<usize>,
    /// The offset of each type that can be looked for by its name: a structure or a typedef.
    named: Vec<usize>,
    strings: usize,
}

#[derive(Clone, Copy)]
struct Type {
    at: usize,
    name: usize,
    kind: u32,
    members: usize,
    /// The type has `kind_flag`: a member's offset shares its word with the size of a bit field.
    bit_fields: bool,
    size_or_type: u32,
}

/// A member of a structure: its offset in bytes, and its type's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub offset: u64,
    type_id: u32,
}

impl KernelTypes {
    pub(super) fn of_running_kernel() -> Result<Self, BtfError> {
        const PATH: &str = "/sys/kernel/btf/vmlinux";
        let bytes = std::fs::read(PATH).map_err(|source| BtfError::Read { path: PATH, source })?;
        Self::parse(bytes)
    }

    fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let header = |at: usize| {
            word(&bytes, at)
                .map(|word| word as usize)
                .ok_or(BtfError::Malformed("the header is cut off"))
        };
        if bytes.get(..2) != Some(&0xeb9f_u16.to_ne_bytes()) {
            return Err(BtfError::Malformed("the magic number is wrong"));
        }
        let body = header(4)?;
        let (start, end) = (body + header(8)?, body + header(8)? + header(12)?);
        let strings = body + header(16)?;
        let mut this = Self {
            bytes,
            types: Vec::new(),
            named: Vec::new(),
            strings,
        };
        let mut at = start;
        while at < end {
            this.types.push(at);
            let found = this
                .at(at)
                .ok_or(BtfError::Malformed("a type is cut off"))?;
            if matches!(found.kind, STRUCT | TYPEDEF) {
                this.named.push(at);
            }
            at += 12
                + found
                    .tail()
                    .ok_or(BtfError::Malformed("a type of unknown kind"))?;
        }
        Ok(this)
    }

    fn at(&self, at: usize) -> Option<Type> {
        let info = word(&self.bytes, at + 4)?;
        Some(Type {
            at,
            name: word(&self.bytes, at)? as usize,
            kind: info >> 24 & 0x1f,
            members: (info & 0xffff) as usize,
            bit_fields: info >> 31 == 1,
            size_or_type: word(&self.bytes, at + 8)?,
        })
    }

    fn by_id(&self, id: u32) -> Option<Type> {
        let index = (id as usize).checked_sub(1)?;
        self.at(*self.types.get(index)?)
    }

    fn is_named(&self, offset: usize, name: &str) -> bool {
        let at = self.strings + offset;
        let end = at + name.len();
        self.bytes.get(at..end) == Some(name.as_bytes()) && self.bytes.get(end) == Some(&0)
    }

    /// Returns the one structure or typedef of this name.
    fn find(&self, kind: u32, name: &str) -> Result<Type, BtfError> {
        let mut found = None;
        for at in &self.named {
            let Some(candidate) = self.at(*at) else {
                continue;
            };
            if candidate.kind == kind && self.is_named(candidate.name, name) {
                if found.is_some() {
                    return Err(BtfError::Ambiguous(name.to_owned()));
                }
                found = Some(candidate);
            }
        }
        found.ok_or_else(|| BtfError::Missing(name.to_owned()))
    }

    /// Returns a member of a structure, also inside its anonymous ones.
    pub(super) fn member(&self, structure: &str, member: &str) -> Result<Member, BtfError> {
        let outer = self.find(STRUCT, structure)?;
        self.member_of(outer, member)
            .ok_or_else(|| BtfError::Missing(format!("{structure}.{member}")))
    }

    fn member_of(&self, outer: Type, wanted: &str) -> Option<Member> {
        for index in 0..outer.members {
            let at = outer.at + 12 + index * 12;
            let (name, type_id, raw) = (
                word(&self.bytes, at)? as usize,
                word(&self.bytes, at + 4)?,
                word(&self.bytes, at + 8)?,
            );
            let bits = if outer.bit_fields {
                raw & 0x00ff_ffff
            } else {
                raw
            };
            let offset = u64::from(bits / 8);
            if self.is_named(name, wanted) {
                return Some(Member { offset, type_id });
            }
            if name == 0
                && let Some(inner) = self.by_id(type_id)
                && matches!(inner.kind, STRUCT | UNION)
                && let Some(found) = self.member_of(inner, wanted)
            {
                return Some(Member {
                    offset: offset + found.offset,
                    ..found
                });
            }
        }
        None
    }

    /// Returns the element size of a member that is an array of structures; `None` if it is no such
    /// array.
    pub(super) fn element_size(&self, member: Member) -> Option<u64> {
        let array = self
            .by_id(member.type_id)
            .filter(|found| found.kind == ARRAY)?;
        let element = self.by_id(word(&self.bytes, array.at + 12)?)?;
        (element.kind == STRUCT).then_some(u64::from(element.size_or_type))
    }

    /// Returns whether the first real parameter of a tracepoint is a pointer. The parameter before
    /// it is the probe's own data.
    pub(super) fn tracepoint_takes_pointer(&self, tracepoint: &str) -> Result<bool, BtfError> {
        let name = format!("btf_trace_{tracepoint}");
        let missing = || BtfError::Missing(name.clone());
        let pointer = self
            .by_id(self.find(TYPEDEF, &name)?.size_or_type)
            .ok_or_else(missing)?;
        let prototype = self
            .by_id(pointer.size_or_type)
            .filter(|found| found.kind == FUNC_PROTO)
            .ok_or_else(missing)?;
        let parameter = word(&self.bytes, prototype.at + 12 + 8 + 4).ok_or_else(missing)?;
        Ok(self.by_id(parameter).ok_or_else(missing)?.kind == PTR)
    }
}

impl Type {
    /// Returns the number of bytes after the common part, which depends on the kind.
    fn tail(self) -> Option<usize> {
        Some(match self.kind {
            1 | 14 | 17 => 4,
            3 => 12,
            4 | 5 | 15 | 19 => self.members * 12,
            6 | 13 => self.members * 8,
            2 | 7..=12 | 16 | 18 => 0,
            _ => return None,
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at + 4)?
        .try_into()
        .ok()
        .map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn narrow(length: usize) -> u32 {
        u32::try_from(length).expect("small")
    }

    /// Writes BTF of a handful of types.
    struct Builder {
        types: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Builder {
        fn name(&mut self, name: &str) -> u32 {
            if name.is_empty() {
                return 0;
            }
            let at = narrow(self.strings.len());
            self.strings.extend(name.bytes().chain([0]));
            at
        }

        fn words(&mut self, words: &[u32]) {
            self.types
                .extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        }

        fn structure(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) {
            let name = self.name(name);
            self.words(&[name, STRUCT << 24 | narrow(members.len()), size]);
            for (member, type_id, offset) in members {
                let member = self.name(member);
                self.words(&[member, *type_id, offset * 8]);
            }
        }

        fn build(self) -> Vec<u8> {
            let (types, strings) = (narrow(self.types.len()), narrow(self.strings.len()));
            let mut bytes = Vec::new();
            bytes.extend(0xeb9f_u16.to_ne_bytes());
            bytes.extend([1, 0]);
            for word in [24, 0, types, types, strings] {
                bytes.extend(u32::to_ne_bytes(word));
            }
            bytes.extend(self.types);
            bytes.extend(self.strings);
            bytes
        }
    }

    #[test]
    fn members_are_found_through_anonymous_structures() {
        let mut builder = Builder {
            types: Vec::new(),
            strings: vec![0],
        };
        builder.structure("inner", 16, &[("count", 1, 8)]);
        builder.structure("", 24, &[("x", 1, 0), ("hidden", 1, 16)]);
        builder.structure("outer", 64, &[("a", 1, 0), ("", 2, 8), ("array", 4, 32)]);
        builder.words(&[0, ARRAY << 24, 0, 1, 1, 4]);
        let types = KernelTypes::parse(builder.build()).expect("well-formed BTF");
        assert_eq!(
            types
                .member("outer", "hidden")
                .map(|member| member.offset)
                .ok(),
            Some(24)
        );
        let array = types.member("outer", "array").expect("an array");
        assert_eq!(types.element_size(array), Some(16));
        assert!(matches!(
            types.member("outer", "nothing"),
            Err(BtfError::Missing(_))
        ));
        assert!(matches!(
            types.member("unknown", "a"),
            Err(BtfError::Missing(_))
        ));
    }

    #[test]
    fn broken_bytes_are_an_error() {
        assert!(KernelTypes::parse(Vec::new()).is_err());
        assert!(KernelTypes::parse(vec![0; 64]).is_err());
        let mut builder = Builder {
            types: Vec::new(),
            strings: vec![0],
        };
        builder.words(&[0, 31 << 24, 0]);
        assert!(KernelTypes::parse(builder.build()).is_err());
    }
}
