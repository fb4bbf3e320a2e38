//! The `watch` sections: of a workload, and of the host.

use super::{Fields, Reader, boolean, is_off, one_of};
use crate::fault::Fault;
use crate::quantity;
use crate::yaml::{Node, Value};
use enforcer_model::spec::Rung;
use enforcer_model::spec::{CpuLoopWatch, DiskWatch, HostWatch, Threshold, Watch};
use std::time::Duration;

pub(crate) const KEYS: &[&str] = &["cpu_loop", "memory", "cpu"];
/// Less would suspect whatever starts up.
const SHORTEST_AFTER: Duration = Duration::from_secs(1);

impl Reader<'_> {
    pub(super) fn watch(&mut self, node: &Node) -> Watch {
        let mut watch = Watch::default();
        for (key, value) in self.fields(node, KEYS).iter() {
            match key {
                "cpu_loop" if is_off(value) => watch.cpu_loop = None,
                "cpu_loop" => watch.cpu_loop = Some(self.cpu_loop(value)),
                "memory" if is_off(value) => watch.memory = None,
                "memory" => watch.memory = Some(self.threshold(value, Threshold::MEMORY)),
                _ if is_off(value) => watch.cpu = None,
                _ => watch.cpu = Some(self.threshold(value, Threshold::CPU)),
            }
        }
        watch
    }

    pub(super) fn host_watch(&mut self, node: &Node) -> HostWatch {
        let mut watch = HostWatch::default();
        for (key, value) in self.fields(node, &["memory", "cpu", "disk"]).iter() {
            match key {
                _ if is_off(value) => {}
                "memory" => {
                    watch.memory = Some(self.threshold(value, Threshold::MEMORY.of_host()));
                }
                "cpu" => watch.cpu = Some(self.threshold(value, Threshold::CPU.of_host())),
                _ => watch.disk = self.disk(value),
            }
        }
        watch
    }

    fn disk(&mut self, node: &Node) -> Option<DiskWatch> {
        let known = ["path", "run", "warn", "critical", "for"];
        let fields = self.fields(node, &known);
        let threshold = self.levels(&fields, Threshold::DISK.of_host());
        let path = match fields.get("path") {
            Some(node) => self.absolute_path(node)?,
            None => "/".to_owned(),
        };
        let run = match fields.get("run") {
            Some(node) => Some(self.command(node)?),
            None => None,
        };
        Some(DiskWatch {
            path,
            threshold,
            run,
        })
    }

    /// Reads `{ warn: 90%, critical: 95%, for: 1m }`. A missing key keeps its default.
    fn threshold(&mut self, node: &Node, default: Threshold) -> Threshold {
        let fields = self.fields(node, &["warn", "critical", "for"]);
        self.levels(&fields, default)
    }

    /// Reads the two levels. If only one is named, the other keeps its default where that makes
    /// sense.
    fn levels(&mut self, fields: &Fields<'_>, default: Threshold) -> Threshold {
        let mut threshold = default;
        self.set_some(fields, "warn", &mut threshold.warn, quantity::share);
        self.set_some(fields, "critical", &mut threshold.critical, quantity::share);
        self.set(fields, "for", &mut threshold.hold, quantity::duration);
        if threshold.warn > threshold.critical {
            match (fields.get("warn"), fields.get("critical")) {
                (Some(node), Some(_)) => self.fault(Fault::error(
                    node.span.clone(),
                    "`warn` is above `critical`",
                )),
                (Some(_), None) => threshold.critical = None,
                (None, _) => threshold.warn = None,
            }
        }
        threshold
    }

    fn cpu_loop(&mut self, node: &Node) -> CpuLoopWatch {
        let fields = self.fields(node, &["after", "respond", "step", "assume_loop"]);
        let mut watch = CpuLoopWatch::default();
        self.set(
            &fields,
            "after",
            &mut watch.after,
            |text| match quantity::duration(text)? {
                short if short < SHORTEST_AFTER => Err("at least 1s of CPU time".to_owned()),
                after => Ok(after),
            },
        );
        self.set(&fields, "step", &mut watch.step, quantity::duration);
        self.set(&fields, "assume_loop", &mut watch.assume_loop, boolean);
        if let Some(ladder) = fields.get("respond") {
            watch.respond = self.ladder(ladder);
        }
        watch
    }

    fn ladder(&mut self, node: &Node) -> Vec<Rung> {
        const EXPECTED: &str = "a list of rungs: tell, demote, { throttle: 20% }, restart";
        const WORDS: [(&str, Rung); 3] = [
            ("tell", Rung::Tell),
            ("demote", Rung::Demote),
            ("restart", Rung::Restart),
        ];
        let Value::Sequence(rungs) = &node.value else {
            self.words(node, EXPECTED);
            return Vec::new();
        };
        let mut ladder = Vec::new();
        for rung in rungs {
            let read = if let Value::Mapping(_) = rung.value {
                let fields = self.fields(rung, &["throttle"]);
                if fields.iter().next().is_none() {
                    self.fault(
                        Fault::error(rung.span.clone(), "this rung names no response")
                            .label(format!("expected {EXPECTED}")),
                    );
                }
                fields
                    .get("throttle")
                    .and_then(|node| self.parsed(node, quantity::throttle))
                    .map(Rung::Throttle)
            } else {
                self.parsed(rung, one_of(&WORDS))
            };
            ladder.extend(read);
        }
        if ladder.is_empty() && rungs.is_empty() {
            ladder.push(Rung::Tell);
        }
        ladder
    }
}
