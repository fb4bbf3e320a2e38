//! Patterns of `attach`: each stands for the services that run under such names. They are looked for when a manifest is applied, and
//! every two seconds as long as it has patterns.

use super::{Configuration, ConfigurationError, blocking};
use crate::inbox::{Events, Question};
use crate::report::error_chain;
use enforcer_core::Event;
use enforcer_core::event::{AgentEvent, Prune};
use enforcer_core::expansion::{Found, MOST, add, expand, patterns};
use enforcer_core::spec::Manifest;
use enforcer_kernel::attached;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// The time between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// The manifest as it was read, and the services that its patterns have matched.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    read: Mutex<Option<(Manifest, Expanded)>>,
    /// A manifest with patterns was installed.
    installed: Notify,
}

/// A manifest with a workload for each service.
#[derive(Clone, Debug)]
pub(super) struct Expanded {
    pub(super) manifest: Manifest,
    found: Found,
    /// The reasons why services are missing.
    troubles: Vec<String>,
}

impl Patterns {
    /// Looks for the services of a manifest's patterns. With `anew`, those that have ended are not known any more.
    pub(super) fn expand(&self, manifest: &Manifest, anew: bool) -> Expanded {
        let read = self.read.lock();
        let known = read.as_ref().filter(|_| !anew).map(|(of, expanded)| {
            let is_same = |name: &_| {
                let service = |of: &Manifest| of.workloads.get(name)?.attach.clone();
                service(of) == service(manifest)
            };
            let known = expanded.found.iter().filter(|(name, _)| is_same(name));
            known
                .map(|(name, services)| (name.clone(), services.clone()))
                .collect()
        });
        let mut found: Found = known.unwrap_or_default();
        drop(read);
        let mut troubles = Vec::new();
        let mut more = Found::new();
        for (name, pattern) in patterns(manifest) {
            match attached::matching(pattern) {
                Ok(services) => {
                    more.insert(name.clone(), services.into_iter().collect());
                }
                Err(error) => troubles.push(format!("{name}: failed to {}", error_chain(&error))),
            }
        }
        let (_, too_many) = add(&mut found, more);
        troubles.extend(too_many.into_iter().map(|name| {
            format!(
                "{name}: it stands for more than {MOST} services; the others are not looked after"
            )
        }));
        let (manifest, nameless) = expand(manifest, &found);
        troubles.extend(nameless.into_iter().map(|(name, service)| {
            format!("{name}: another workload has this name, so {service} is not looked after")
        }));
        Expanded {
            manifest,
            found,
            troubles,
        }
    }

    /// Notes a manifest that comes into force.
    pub(super) fn install(&self, manifest: Manifest, expanded: Expanded, events: &Events) {
        let mut read = self.read.lock();
        let before = read.as_ref().map(|(_, before)| before.troubles.clone());
        for trouble in &expanded.troubles {
            if before
                .as_ref()
                .is_some_and(|before| before.contains(trouble))
            {
                continue;
            }
            let (what, why) = ("attach".to_owned(), trouble.clone());
            events.send(Event::Agent(AgentEvent::Degraded { what, why }));
        }
        if patterns(&manifest).next().is_some() {
            self.installed.notify_one();
        }
        *read = Some((manifest, expanded));
    }

    /// Looks again. Returns the manifest with more services; `None` if there are none.
    fn look(&self) -> Option<(Manifest, Expanded)> {
        let (manifest, before) = self.read.lock().clone()?;
        let expanded = self.expand(&manifest, false);
        let has_more = expanded.found != before.found || expanded.troubles != before.troubles;
        has_more.then_some((manifest, expanded))
    }

    fn is_empty(&self) -> bool {
        let read = self.read.lock();
        read.as_ref()
            .is_none_or(|(manifest, _)| patterns(manifest).next().is_none())
    }
}

impl Configuration {
    /// Looks for services as long as the agent lives.
    pub(crate) async fn look_for_services(self: Arc<Self>) {
        loop {
            self.patterns.installed.notified().await;
            while !self.patterns.is_empty() {
                tokio::time::sleep(LOOK).await;
                if let Err(ConfigurationError::Ending) = self.take_more().await {
                    return;
                }
            }
        }
    }

    /// Applies the manifest in force once more if there are more services.
    async fn take_more(self: &Arc<Self>) -> Result<(), ConfigurationError> {
        let _changing = self.changing.lock().await;
        let this = Arc::clone(self);
        let Some((manifest, expanded)) = blocking(move || Ok(this.patterns.look())).await? else {
            return Ok(());
        };
        let with_more = Box::new(expanded.manifest.clone());
        self.patterns.install(manifest, expanded, &self.events);
        let applied = self.events.ask(|reply| Question::Apply {
            manifest: with_more,
            prune: Prune::Nothing,
            reply,
        });
        applied.await.map(drop).ok_or(ConfigurationError::Ending)
    }
}
