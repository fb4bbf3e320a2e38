//! The places of a service: published ports, volumes, and file systems in memory.

use super::entry;
use crate::output::Yaml;
use crate::values::{size, text};
use enforcer_manifest::Node;

/// Returns an entry of `tmpfs`, such as `/run:size=64m,mode=755`.
pub(super) fn tmpfs(entry: &str) -> Yaml {
    let (path, options) = entry.split_once(':').unwrap_or((entry, ""));
    let bound = options
        .split(',')
        .find_map(|option| option.strip_prefix("size="));
    match bound.and_then(size) {
        Some(size) => {
            let mut both = Yaml::map();
            both.put(&["path"], Yaml::Text(path.to_owned()));
            both.put(&["size"], Yaml::Word(size));
            both
        }
        None => Yaml::Text(path.to_owned()),
    }
}

/// Returns the source, the target, whether it cannot be changed, and the kind of a volume.
pub(super) fn volume(item: &Node) -> Option<(String, String, bool, String)> {
    if let Some(short) = text(item) {
        let mut parts = short.split(':');
        let first = parts.next()?;
        let Some(second) = parts.next() else {
            return Some((String::new(), first.to_owned(), false, String::new()));
        };
        let read_only = parts
            .next()
            .is_some_and(|options| options.split(',').any(|option| option == "ro"));
        return Some((
            first.to_owned(),
            second.to_owned(),
            read_only,
            String::new(),
        ));
    }
    let of = |key: &str| entry(item, key).and_then(text).map(str::to_owned);
    let target = of("target").or_else(|| of("destination"))?;
    let read_only = of("read_only").is_some_and(|text| text == "true");
    let kind = of("type").unwrap_or_default();
    Some((of("source").unwrap_or_default(), target, read_only, kind))
}

/// Published ports, each with the port of the program.
pub(super) type Ports = Vec<(u16, u16)>;

/// Returns the published ports of an entry, each with the port of the program.
pub(super) fn port(item: &Node) -> Result<(Ports, Option<String>), String> {
    let of = |key: &str| entry(item, key).and_then(text).map(str::to_owned);
    let (published, target, protocol, address) = match text(item) {
        Some(short) => {
            let (short, protocol) = short.split_once('/').unwrap_or((short, "tcp"));
            let (rest, target) = short.rsplit_once(':').unwrap_or(("", short));
            let (address, published) = rest.rsplit_once(':').unwrap_or(("", rest));
            let published = if published.is_empty() {
                target
            } else {
                published
            };
            (
                published.to_owned(),
                target.to_owned(),
                protocol.to_owned(),
                address.to_owned(),
            )
        }
        None => {
            let target = of("target").ok_or("a port has no target")?;
            (
                of("published").unwrap_or_else(|| target.clone()),
                target,
                of("protocol").unwrap_or_else(|| "tcp".to_owned()),
                of("host_ip").unwrap_or_default(),
            )
        }
    };
    if protocol != "tcp" {
        return Err(format!(
            "{published}/{protocol} is bound by the program itself"
        ));
    }
    let (from, to) = (range(&published)?, range(&target)?);
    let ports: Vec<(u16, u16)> = from.zip(to).collect();
    let note =
        (!address.is_empty()).then(|| format!("the program itself chooses the address {address}"));
    Ok((ports, note))
}

fn range(text: &str) -> Result<std::ops::RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| {
        text.parse::<u16>()
            .map_err(|_| format!("`{text}` is no port"))
    };
    Ok(number(first)?..=number(last)?)
}
