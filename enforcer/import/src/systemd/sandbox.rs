//! What a program is kept from.

use super::unit::{Unit, is_yes};
use crate::outcome::{Outcome, exact, near, needs_you};
use crate::output::Yaml;
use enforcer_manifest::CAPABILITIES;
use std::collections::BTreeSet;

/// Settings that `sandbox: default` has as well.
const DEFAULT: &[&str] = &[
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "PrivateDevices",
    "PrivateTmp",
    "ProcSubset",
    "ProtectClock",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "RemoveIPC",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "SystemCallArchitectures",
    "SystemCallErrorNumber",
    "SystemCallFilter",
    "SystemCallLog",
    "PrivateMounts",
    "PrivateUsers",
    "PrivateIPC",
];
/// Settings that only `sandbox: strict` has.
const STRICT: &[&str] = &[
    "IPAddressAllow",
    "IPAddressDeny",
    "PrivateNetwork",
    "RestrictAddressFamilies",
    "SocketBindAllow",
    "SocketBindDeny",
    "RestrictNetworkInterfaces",
    "ExecPaths",
    "NoExecPaths",
    "RestrictFileSystems",
];

pub(super) fn read(
    unit: &mut Unit<'_>,
    key: &str,
    value: &str,
    values: &[String],
) -> Option<Outcome> {
    let paths = || {
        let paths = values.iter().flat_map(|value| value.split_whitespace());
        paths.map(|path| path.trim_start_matches(['-', '+', ':']).to_owned())
    };
    Some(match key {
        "NoNewPrivileges" => match is_yes(value) {
            true => exact("every user but root has it"),
            false => near("every user but root has no_new_privs"),
        },
        "AmbientCapabilities" => {
            let names: Vec<String> = paths().collect();
            unit.put(&["capabilities"], Yaml::texts(names));
            exact("")
        }
        "CapabilityBoundingSet" => bounding_set(unit, values),
        "SecureBits" => near("the defaults hold"),
        "ReadWritePaths" | "ReadWriteDirectories" => {
            list(unit, "read_write_paths", paths().collect())
        }
        "ReadOnlyPaths" | "ReadOnlyDirectories" => list(unit, "read_only_paths", paths().collect()),
        "InaccessiblePaths" | "InaccessibleDirectories" => {
            near("a sandbox hides what other users have")
        }
        "BindPaths" | "BindReadOnlyPaths" => {
            let read_only = key == "BindReadOnlyPaths";
            let mut mounts = match unit.draft.get(&["mounts"]) {
                Some(Yaml::List(known)) => known.clone(),
                _ => Vec::new(),
            };
            for path in paths() {
                let mut parts = path.split(':');
                let from = parts.next().unwrap_or_default().to_owned();
                let to = parts.next().unwrap_or(&from).to_owned();
                let mut mount = Yaml::map();
                mount.put(&["from"], Yaml::Text(from));
                mount.put(&["to"], Yaml::Text(to));
                if read_only {
                    mount.put(&["read_only"], Yaml::word("true"));
                }
                mounts.push(mount);
            }
            unit.put(&["mounts"], Yaml::List(mounts));
            exact("each place must be there")
        }
        "TemporaryFileSystem" => {
            let places = paths()
                .map(|path| Yaml::Text(path.split(':').next().unwrap_or_default().to_owned()));
            unit.put(&["tmpfs"], Yaml::List(places.collect()));
            near("without its options")
        }
        "RootImage"
        | "RootHash"
        | "RootVerity"
        | "MountImages"
        | "ExtensionImages"
        | "ExtensionDirectories" => needs_you("unpack the image, and name its folder in `root`"),
        "MountAPIVFS" | "RootEphemeral" => exact("a root has /proc, /sys and /dev"),
        "SELinuxContext" | "AppArmorProfile" | "SmackProcessLabel" => {
            needs_you("put runcon(1) or aa-exec(1) in front of the command")
        }
        _ if DEFAULT.contains(&key) => {
            if !["no", "false", "off", "0"].contains(&value) {
                unit.has_sandbox = true;
                if unit.draft.get(&["sandbox"]) != Some(&Yaml::word("strict")) {
                    unit.put(&["sandbox"], Yaml::word("default"));
                }
            }
            near(
                "`sandbox: default` keeps it from this and from more: `enforcer sandbox show default`",
            )
        }
        _ if STRICT.contains(&key) => {
            near("`sandbox: strict` does: `enforcer sandbox learn` proposes what it needs")
        }
        _ => return None,
    })
}

fn list(unit: &mut Unit<'_>, key: &str, paths: Vec<String>) -> Outcome {
    unit.has_sandbox = true;
    if unit.draft.get(&["sandbox"]).is_none() {
        unit.put(&["sandbox"], Yaml::word("default"));
    }
    unit.put(&[key], Yaml::texts(paths));
    exact("")
}

/// Writes the capabilities that root is left with. Lines add to each other; one that begins with `~` takes its
/// names away, and `~` alone stands for all.
pub(super) fn bounding_set(unit: &mut Unit<'_>, values: &[String]) -> Outcome {
    let user = unit.last("User").unwrap_or("root");
    if !matches!(user, "root" | "0") {
        return near("a user other than root has the capabilities of `capabilities` alone");
    }
    let all = || -> BTreeSet<String> { CAPABILITIES.map(str::to_owned).into() };
    let mut left: Option<BTreeSet<String>> = None;
    for value in values {
        let (takes, names) = match value.strip_prefix('~') {
            Some(names) => (true, names),
            None => (false, value.as_str()),
        };
        let names = names.split_whitespace().map(str::to_ascii_uppercase);
        let names: BTreeSet<String> = names.collect();
        if let Some(unknown) = names
            .iter()
            .find(|name| !CAPABILITIES.contains(&name.as_str()))
        {
            return needs_you(format!("{unknown} is not known: write `capabilities`"));
        }
        let before = left.take();
        left = Some(match takes {
            true if names.is_empty() => all(),
            true => &before.unwrap_or_else(all) - &names,
            false => &before.unwrap_or_default() | &names,
        });
    }
    let left = left.unwrap_or_default();
    if left.len() < CAPABILITIES.len() {
        let in_order = CAPABILITIES.iter().filter(|name| left.contains(**name));
        let names: Vec<&str> = in_order.copied().collect();
        unit.put(&["capabilities"], Yaml::texts(names));
    }
    exact("")
}
