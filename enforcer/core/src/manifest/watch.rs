//! The `watch` section of a workload.

use super::fault::Fault;
use super::quantity;
use super::read::{Reader, boolean, is_off, one_of};
use super::yaml::{Node, Value};
use crate::cpu_loop::Rung;
use crate::spec::{CpuLoopWatch, Watch};
use std::time::Duration;

/// Less would suspect whatever starts up.
const SHORTEST_AFTER: Duration = Duration::from_secs(1);

impl Reader<'_> {
    pub(super) fn watch(&mut self, node: &Node) -> Watch {
        let mut watch = Watch::default();
        for (key, value) in self.fields(node, &["cpu_loop", "memory", "cpu"]).iter() {
            match key {
                "cpu_loop" if is_off(value) => watch.cpu_loop = None,
                "cpu_loop" => watch.cpu_loop = Some(self.cpu_loop(value)),
                // Off is what it is today.
                _ if is_off(value) => {}
                _ => {
                    self.threshold(value, &[]);
                    let what = format!("`watch.{key}`");
                    self.fault(Fault::not_yet(value.span.clone(), &what));
                }
            }
        }
        watch
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
