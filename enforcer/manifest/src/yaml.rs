//! YAML text to a tree that remembers where everything stood. The only file
//! that knows the YAML library; its budgets bound what a hostile file can cost.

use crate::fault::Fault;
use crate::merge;
use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use std::collections::HashMap;
use std::ops::Range;

/// The largest manifest, in bytes.
pub(super) const MAX_SOURCE: usize = 1 << 20;
/// Nodes after aliases are expanded: a bomb stops here.
pub(super) const MAX_NODES: usize = 100_000;
const MAX_DEPTH: usize = 32;

/// A value of a text, with its place there.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub span: Range<usize>,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    /// `plain` where it was written without quotes.
    Scalar {
        text: String,
        plain: bool,
    },
    Sequence(Vec<Node>),
    Mapping(Vec<(Node, Node)>),
}

impl Value {
    /// Returns each key of a mapping whose keys are words, with its place and its value.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &Range<usize>, &Node)> {
        let entries = match self {
            Self::Mapping(entries) => entries.as_slice(),
            Self::Null | Self::Scalar { .. } | Self::Sequence(_) => &[],
        };
        entries.iter().filter_map(|(key, value)| match &key.value {
            Self::Scalar { text, .. } => Some((text.as_str(), &key.span, value)),
            Self::Null | Self::Sequence(_) | Self::Mapping(_) => None,
        })
    }

    /// Returns the node in words, for "expected …, found …".
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Scalar { text, .. } => format!("`{}`", text.chars().take(40).collect::<String>()),
            Self::Sequence(_) => "a list".to_owned(),
            Self::Mapping(_) => "a mapping".to_owned(),
        }
    }
}

/// Parses the first document. The second part is the fault of what follows it.
pub(super) fn parse(source: &str) -> Result<(Node, Result<(), Fault>), Fault> {
    if source.len() > MAX_SOURCE {
        return Err(
            Fault::error(0..0, "the file is larger than 1 MiB").label("no manifest is this long")
        );
    }
    let mut tree = Tree {
        events: Parser::new_from_str(source),
        offsets: Offsets::of(source),
        anchors: HashMap::new(),
        nodes: 0,
    };
    tree.document()
}

struct Tree<'s> {
    events: Parser<'s, saphyr_parser::StrInput<'s>>,
    offsets: Offsets,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

impl<'s> Tree<'s> {
    fn next(&mut self) -> Result<(Event<'s>, Range<usize>), Fault> {
        match self.events.next_event() {
            Some(Ok((event, span))) => Ok((event, self.offsets.range(span))),
            Some(Err(error)) => {
                let at = self.offsets.byte(error.marker().index());
                Err(Fault::error(at..at, "this is not YAML").label(error.info().to_owned()))
            }
            None => Err(Fault::error(0..0, "the file ends in the middle of a value")),
        }
    }

    fn document(&mut self) -> Result<(Node, Result<(), Fault>), Fault> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
                Event::StreamEnd => {
                    let nothing = Node {
                        span: 0..0,
                        value: Value::Null,
                    };
                    return Ok((nothing, Ok(())));
                }
                other @ (Event::DocumentEnd
                | Event::Alias(_)
                | Event::Scalar(..)
                | Event::SequenceStart(..)
                | Event::SequenceEnd
                | Event::MappingStart(..)
                | Event::MappingEnd) => {
                    let node = self.node(other, span, 0)?;
                    return Ok((node, self.refuse_more()));
                }
            }
        }
    }

    fn refuse_more(&mut self) -> Result<(), Fault> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(()),
                Event::DocumentStart(_) => {
                    return Err(Fault::error(span, "a second document starts here")
                        .label("a manifest is one document")
                        .help("use a folder of files instead"));
                }
                Event::Nothing
                | Event::StreamStart
                | Event::DocumentEnd
                | Event::Alias(_)
                | Event::Scalar(..)
                | Event::SequenceStart(..)
                | Event::SequenceEnd
                | Event::MappingStart(..)
                | Event::MappingEnd => {}
            }
        }
    }

    fn node(&mut self, event: Event<'s>, span: Range<usize>, depth: usize) -> Result<Node, Fault> {
        self.count(1, &span)?;
        if depth > MAX_DEPTH {
            return Err(Fault::error(span, "nested too deeply").label("no manifest goes this deep"));
        }
        let before = self.nodes;
        let (anchor, node) = match event {
            Event::Scalar(text, style, anchor, _) => {
                let plain = matches!(style, ScalarStyle::Plain);
                let value = if plain && matches!(&*text, "" | "~" | "null") {
                    Value::Null
                } else {
                    Value::Scalar {
                        text: text.into_owned(),
                        plain,
                    }
                };
                (anchor, Node { span, value })
            }
            Event::SequenceStart(anchor, _) => (anchor, self.sequence(span, depth)?),
            Event::MappingStart(anchor, _) => (anchor, self.mapping(span, depth)?),
            Event::Alias(anchor) => return self.alias(anchor, span),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => {
                return Err(Fault::error(span, "a value was expected here"));
            }
        };
        if anchor != 0 {
            self.anchors
                .insert(anchor, (node.clone(), self.nodes - before + 1));
        }
        Ok(node)
    }

    fn sequence(&mut self, start: Range<usize>, depth: usize) -> Result<Node, Fault> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                let span = start.start..span.end.max(start.end);
                return Ok(Node {
                    span,
                    value: Value::Sequence(items),
                });
            }
            items.push(self.node(event, span, depth + 1)?);
        }
    }

    fn mapping(&mut self, start: Range<usize>, depth: usize) -> Result<Node, Fault> {
        let mut entries: Vec<(Node, Node)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                // A block's end is where the next thing begins; its first key says more.
                let end = entries.first().map_or(start.end, |(key, _)| key.span.end);
                let span = start.start..end.max(start.start);
                return Ok(Node {
                    span,
                    value: Value::Mapping(merge::expand(entries)?),
                });
            }
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.next()?;
            let mut value = self.node(event, span, depth + 1)?;
            if value.value == Value::Null && value.span.is_empty() {
                value.span = key.span.clone();
            }
            entries.push((key, value));
        }
    }

    fn alias(&mut self, anchor: usize, span: Range<usize>) -> Result<Node, Fault> {
        let Some((node, size)) = self.anchors.get(&anchor).cloned() else {
            return Err(Fault::error(span, "this alias has no anchor"));
        };
        self.count(size, &span)?;
        Ok(node)
    }

    fn count(&mut self, nodes: usize, span: &Range<usize>) -> Result<(), Fault> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(Fault::error(
                span.clone(),
                "the file grows beyond all bounds when its aliases are expanded",
            )
            .label(format!("past {MAX_NODES} values here")));
        }
        Ok(())
    }
}

/// The map from the library's character indices to byte offsets.
enum Offsets {
    Ascii(usize),
    Table(Vec<usize>),
}

impl Offsets {
    fn of(source: &str) -> Self {
        if source.is_ascii() {
            return Self::Ascii(source.len());
        }
        let mut table: Vec<usize> = source.char_indices().map(|(at, _)| at).collect();
        table.push(source.len());
        Self::Table(table)
    }

    fn byte(&self, character: usize) -> usize {
        match self {
            Self::Ascii(length) => character.min(*length),
            Self::Table(table) => table.get(character).or(table.last()).copied().unwrap_or(0),
        }
    }

    fn range(&self, span: Span) -> Range<usize> {
        let start = self.byte(span.start.index());
        start..self.byte(span.end.index()).max(start)
    }
}
