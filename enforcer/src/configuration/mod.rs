//! The manifest that is in force: read, checked, installed and applied here, for every caller.
//!
//! ```text
//! POST /v1/plan ──┐
//! POST /v1/apply ─┼─▶ read ─▶ check ─▶ install ─▶ Question::Apply ─▶ wait for the kernel
//! SIGHUP, inotify ┘    files.rs          (a file of the caller)
//! ```
//!
//! [`files`] reads manifests from disk, [`follow`] notices their changes, and [`dormant`] names the
//! files that are not read before the next `apply`. [`patterns`] finds the services that a pattern of
//! `attach` stands for.

pub(crate) mod delegates;
pub(crate) mod dormant;
pub(crate) mod files;
pub(crate) mod follow;
pub(crate) mod patterns;

use crate::executor::Executor;
use crate::inbox::{Events, Question};
use delegates::Delegates;
use dormant::Dormant;
use enforcer_core::WorkloadName;
use enforcer_core::event::Prune;
use enforcer_core::plan::{self, Plan, Shrink, shrinks_below_use};
use enforcer_core::spec::{Host, Manifest};
use enforcer_core::units::{Bytes, Limit};
use enforcer_kernel::replacement::{Survives, replace};
use enforcer_kernel::usage::memory_current;
use enforcer_kernel::{memory_info, system_limits};
use enforcer_model::requests::{ApplyAnswer, PlanAnswer, Proposal, ProposedFile};
use files::{LoadError, Loaded, Source};
use patterns::Patterns;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// The longest time that `apply` waits for the kernel to take new limits. A limit below the memory
/// in use makes the kernel reclaim first.
const LIMITS_PATIENCE: Duration = Duration::from_secs(10);

/// The manifest of an agent, and the ways to change it.
#[derive(Debug)]
pub(crate) struct Configuration {
    /// The file, or the folder of files.
    path: PathBuf,
    delegates: Delegates,
    dormant: Arc<Dormant>,
    executor: Arc<Executor>,
    events: Events,
    /// Held from reading to applying, so that the files on disk and the manifest in force are of
    /// the same change.
    changing: Mutex<()>,
    patterns: Patterns,
}

/// The reason for which a manifest is not in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigurationError {
    /// The manifest cannot be read, or has faults.
    #[error("{0}")]
    Faulty(String),
    /// The manifest has no fault, and the agent does not apply it.
    #[error("{0}")]
    Refused(String),
    #[error("the agent is going down")]
    Ending,
}

impl Configuration {
    pub(crate) fn new(
        (path, delegates): (&Path, Delegates),
        dormant: Arc<Dormant>,
        executor: Arc<Executor>,
        events: Events,
    ) -> Arc<Self> {
        Arc::new(Self {
            path: path.to_owned(),
            delegates,
            dormant,
            executor,
            events,
            changing: Mutex::default(),
            patterns: Patterns::default(),
        })
    }

    /// Returns what a proposal would change. `of` is the delegate who asks.
    pub(crate) async fn plan(
        self: &Arc<Self>,
        proposal: Proposal,
        of: Option<String>,
    ) -> Result<PlanAnswer, ConfigurationError> {
        let this = Arc::clone(self);
        let read = blocking(move || {
            let loaded = this.read(proposal.file.as_ref(), of.as_deref(), &BTreeSet::new())?;
            let manifest = this
                .patterns
                .expand(&loaded.manifest, proposal.prune)
                .manifest;
            Ok(Loaded { manifest, ..loaded })
        });
        let loaded = read.await?;
        let in_force = self.in_force().await?;
        let plan = Box::new(plan::between(&in_force, &loaded.manifest));
        let plan = self.events.ask(|reply| Question::Plan(plan, reply)).await;
        Ok(PlanAnswer {
            plan: plan.ok_or(ConfigurationError::Ending)?,
            warnings: loaded.warnings,
        })
    }

    /// Returns the manifest that is in force.
    async fn in_force(&self) -> Result<Manifest, ConfigurationError> {
        let in_force = self.events.ask(Question::Manifest).await;
        in_force.ok_or(ConfigurationError::Ending)
    }

    /// Applies a proposal, and waits until the kernel has the new limits, but not for longer than
    /// [`LIMITS_PATIENCE`]. A caller that goes away does not interrupt it.
    pub(crate) async fn apply(
        self: &Arc<Self>,
        proposal: Proposal,
        of: Option<String>,
    ) -> Result<ApplyAnswer, ConfigurationError> {
        let this = Arc::clone(self);
        let applied = tokio::spawn(async move {
            let (plan, warnings) = this.change(proposal, of, BTreeSet::new()).await?;
            let written = this.events.ask(Question::LimitsWritten);
            // After the time-out, the next answer names what is still being written.
            let _ = tokio::time::timeout(LIMITS_PATIENCE, written).await;
            let unwritten = this.events.ask(Question::UnwrittenLimits).await;
            Ok(ApplyAnswer {
                plan,
                warnings,
                unwritten: unwritten.ok_or(ConfigurationError::Ending)?,
            })
        });
        applied.await.map_err(|_| ConfigurationError::Ending)?
    }

    /// Reads the agent's own manifest again, without the files that wait for an `apply`, and applies
    /// it. A manifest with a fault changes nothing.
    pub(crate) async fn reload(self: &Arc<Self>) -> Result<(), ConfigurationError> {
        let (_, warnings) = self
            .change(Proposal::default(), None, self.dormant.names())
            .await?;
        if !warnings.is_empty() {
            tracing::warn!("{warnings}");
        }
        Ok(())
    }

    /// Reads, checks, installs and applies a proposal. Returns the plan and the drawn warnings.
    async fn change(
        self: &Arc<Self>,
        proposal: Proposal,
        of: Option<String>,
        skipped: BTreeSet<String>,
    ) -> Result<(Plan, String), ConfigurationError> {
        let _changing = self.changing.lock().await;
        let prune = match (proposal.prune, of.clone()) {
            (false, _) => Prune::Nothing,
            (true, None) => Prune::All,
            (true, Some(user)) => Prune::Of(user),
        };
        // Another one's files stay unread.
        let skipped = match of.is_some() {
            true => self.dormant.names(),
            false => skipped,
        };
        let reads_all = skipped.is_empty() && of.is_none();
        let looks_anew = prune == Prune::All;
        let in_force = self.in_force().await?;
        let this = Arc::clone(self);
        let loaded = blocking(move || {
            let loaded = this.read(proposal.file.as_ref(), of.as_deref(), &skipped)?;
            let expanded = this.patterns.expand(&loaded.manifest, looks_anew);
            if !proposal.force {
                this.refuse_shrinks(&in_force, &expanded.manifest)?;
            }
            if let Some(file) = &proposal.file {
                this.install(file)?;
            }
            if reads_all {
                this.dormant.wake();
            }
            Ok((loaded, expanded))
        });
        let (loaded, expanded) = loaded.await?;
        let manifest = Box::new(expanded.manifest.clone());
        self.patterns
            .install(loaded.manifest, expanded, &self.events);
        let plan = self.events.ask(|reply| Question::Apply {
            manifest,
            prune,
            reply,
        });
        Ok((
            plan.await.ok_or(ConfigurationError::Ending)?,
            loaded.warnings,
        ))
    }

    /// Takes the manifest that the agent begins with. Returns it with a workload for each service that its patterns stand for. Of one
    /// that could be read in part, they are looked for once: applied again, it would disown the other workloads.
    pub(crate) fn begin(&self, manifest: Manifest, is_partial: bool) -> Manifest {
        let expanded = self.patterns.expand(&manifest, false);
        let begun = expanded.manifest.clone();
        if !is_partial {
            self.patterns.install(manifest, expanded, &self.events);
        }
        begun
    }

    /// Reads the manifest with this file in its place, and without those that are skipped.
    fn read(
        &self,
        file: Option<&ProposedFile>,
        of: Option<&str>,
        skipped: &BTreeSet<String>,
    ) -> Result<Loaded, ConfigurationError> {
        if let Some(user) = of {
            self.delegates.check(user, file, &self.path)?;
        }
        let failed = |error: LoadError| match error {
            // Their lines are not for everyone.
            LoadError::Faults(..) if of.is_some() => ConfigurationError::Faulty(
                "the manifest has a fault with this file in it, as two workloads of one name; \
                 root sees it with `enforcer apply`"
                    .to_owned(),
            ),
            LoadError::Faults(drawn, _) => ConfigurationError::Faulty(drawn),
            other => ConfigurationError::Faulty(format!("failed to {other}")),
        };
        let sources = match file {
            None => files::read_or_nothing(&self.path, skipped).map_err(failed)?,
            Some(file) => {
                let mut sources = match files::read_or_nothing(&self.path, skipped) {
                    read if self.path.is_dir() => read.map_err(failed)?,
                    // The one file that there is will be replaced.
                    _ => Vec::new(),
                };
                let place = self.place_of(file);
                sources.retain(|source| source.path != place);
                sources.push(Source {
                    path: place,
                    text: file.text.clone(),
                });
                sources.sort_by(|one, other| one.path.cmp(&other.path));
                sources
            }
        };
        let mut loaded = files::parse(&sources, &self.delegates, false).map_err(failed)?;
        if of.is_some() {
            // They may quote other files.
            loaded.warnings.clear();
        }
        Ok(loaded)
    }

    /// Returns the user of this number, if a file of the manifest is that user's.
    pub(crate) fn delegate(&self, uid: u32) -> Option<&str> {
        self.delegates.user_of(uid)
    }

    /// Returns whether a workload is of this user's file.
    pub(crate) async fn is_of(
        &self,
        user: &str,
        name: &WorkloadName,
    ) -> Result<bool, ConfigurationError> {
        let in_force = self.in_force().await?;
        let spec = in_force.workloads.get(name);
        Ok(spec.is_some_and(|spec| spec.delegate.as_deref() == Some(user)))
    }

    /// Returns the text of a user's file, which is empty if there is none.
    pub(crate) async fn text_of(
        self: &Arc<Self>,
        user: String,
    ) -> Result<String, ConfigurationError> {
        let this = Arc::clone(self);
        let read = blocking(move || {
            let path = this.delegates.file_of(&user, &this.path)?;
            match std::fs::read_to_string(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
                read => read.map_err(|error| {
                    ConfigurationError::Faulty(format!(
                        "failed to read {}: {error}",
                        path.display()
                    ))
                }),
            }
        });
        read.await
    }

    fn place_of(&self, file: &ProposedFile) -> PathBuf {
        match file.path.file_name() {
            Some(name) if self.path.is_dir() => self.path.join(name),
            _ => self.path.clone(),
        }
    }

    /// Replaces the file in one step, so that a reader sees the old file or the new one. A manifest
    /// may hold secrets: the new file has the mode of the old one, and 0600 if there was none.
    fn install(&self, file: &ProposedFile) -> Result<(), ConfigurationError> {
        if self.path.is_dir() && !files::is_manifest(&file.path) {
            return Err(ConfigurationError::Faulty(format!(
                "{} would not be read: files of the manifest's folder end in .yaml or .yml and do not begin with a dot",
                file.path.display()
            )));
        }
        let place = self.place_of(file);
        let mode = std::fs::metadata(&place).map_or(0o600, |present| present.mode() & 0o777);
        replace(&place, file.text.as_bytes(), mode, Survives::PowerCut).map_err(|error| {
            ConfigurationError::Refused(format!(
                "failed to install {}: {error}",
                file.path.display()
            ))
        })
    }

    /// Refuses limits of memory that are lower than in the manifest in force and below the memory in
    /// use.
    fn refuse_shrinks(&self, old: &Manifest, new: &Manifest) -> Result<(), ConfigurationError> {
        let instances = self.executor.instances.all().into_iter();
        let used = instances
            .map(|(name, instance)| (Some(name), memory_current(instance.cgroup())))
            .chain([(None, memory_current(self.executor.tree.workloads()))])
            .filter_map(|(name, used)| Some((name, used?)));
        // Of replicas, which have one limit, the largest counts.
        let mut most: BTreeMap<Option<WorkloadName>, Bytes> = BTreeMap::new();
        for (name, used) in used {
            let name = name.map(|name| name.workload().clone());
            let of_name = most.entry(name).or_default();
            *of_name = (*of_name).max(used);
        }
        let used = most;
        let totals = memory_info::totals().ok();
        let ceiling = |host: &Host| {
            let (memory, swap) = totals?;
            let limits = host.ceiling(memory, swap, system_limits::most_threads());
            limits.memory_max.and_then(Limit::at)
        };
        let shrinks = shrinks_below_use(old, new, ceiling, &used);
        if shrinks.is_empty() {
            return Ok(());
        }
        let refused: Vec<String> = shrinks.iter().map(describe).collect();
        Err(ConfigurationError::Refused(format!(
            "{}\nnothing was changed; `--force` applies it all the same",
            refused.join("\n")
        )))
    }
}

fn describe(shrink: &Shrink) -> String {
    let limit = shrink.memory_max_bytes;
    let limit = match &shrink.workload {
        Some(workload) => format!("{workload}: memory.max {limit}"),
        None => format!("host: {limit} for all workloads together"),
    };
    format!(
        "{limit} is below the {} in use now; the kernel would reclaim, and kill if that is not enough",
        shrink.in_use_bytes
    )
}

/// Runs work that may take its time, such as reading files and looking up accounts, where it does
/// not delay probes.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ConfigurationError> + Send + 'static,
) -> Result<T, ConfigurationError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ConfigurationError::Ending)?
}
