//! The `host` section.

use super::Reader;
use crate::quantity;
use crate::yaml::Node;
use enforcer_model::limits::Limits;
use enforcer_model::spec::{Host, Portion, Reserve};

pub(crate) const KEYS: &[&str] = &["reserve", "cgroup", "starts_at_once", "watch"];

impl Reader<'_> {
    pub(super) fn host(&mut self, node: &Node) -> Host {
        let fields = self.fields(node, KEYS);
        let mut host = Host::default();
        if let Some(node) = fields.get("reserve") {
            host.reserve = self.reserve(node);
        }
        if let Some(node) = fields.get("cgroup") {
            host.limits = self.limits(node, Limits::default());
        }
        if let Some(node) = fields.get("starts_at_once") {
            host.starts_at_once = self.parsed(node, |text| {
                let number = quantity::integer(text, 1..=10_000)?;
                u32::try_from(number).map_err(|_| "a smaller number".to_owned())
            });
        }
        if let Some(node) = fields.get("watch") {
            host.watch = self.host_watch(node);
        }
        host
    }

    fn reserve(&mut self, node: &Node) -> Reserve {
        let fields = self.fields(node, &["memory", "swap"]);
        let mut reserve = Reserve::default();
        self.set_some(&fields, "memory", &mut reserve.memory, portion);
        self.set_some(&fields, "swap", &mut reserve.swap, portion);
        reserve
    }
}

fn portion(text: &str) -> Result<Portion, String> {
    if text.ends_with('%') {
        return quantity::share(text).map(Portion::Share);
    }
    quantity::bytes(text)
        .map(Portion::Amount)
        .map_err(|expected| format!("{expected}, or a percentage"))
}
