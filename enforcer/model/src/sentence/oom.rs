//! OOM kills in words.

use crate::oom::{Incident, Scope, Victim};
use crate::text::printable;
use crate::units::Bytes;

pub(super) fn of_incident(incident: &Incident) -> String {
    let limit_of = |whose: &str| match incident.limit_bytes {
        Some(limit) => format!("{whose} {limit} limit"),
        None => format!("{whose} limit"),
    };
    let cgroup = match &incident.scope {
        Scope::Descendant(Some(cgroup)) | Scope::Ancestor(cgroup) => printable(cgroup),
        // A cgroup that the workload has made may be gone when the kill is reported.
        Scope::Descendant(None) => "a cgroup of its own".to_owned(),
        Scope::Own | Scope::Host => String::new(),
    };
    let [first, rest @ ..] = incident.victims.as_slice() else {
        let whose = match &incident.scope {
            Scope::Own => format!("at {}", limit_of("its")),
            Scope::Descendant(_) | Scope::Ancestor(_) => {
                format!("at {} of {cgroup}", limit_of("the"))
            }
            Scope::Host => "as the host ran out of memory".to_owned(),
        };
        return format!("OOM kill {whose} (seen by the kernel's counters alone)");
    };
    let used: u64 = incident.victims.iter().map(private_bytes).sum();
    let used = mebibytes(used);
    let more = match rest.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let who = format!("{} (pid {}){more}", printable(&first.command), first.pid);
    match &incident.scope {
        Scope::Own => format!("OOM kill: {who} used {used} of {}", limit_of("its")),
        Scope::Descendant(_) | Scope::Ancestor(_) => format!(
            "OOM kill: {who} used {used} as {cgroup} met {}",
            limit_of("its")
        ),
        Scope::Host => format!("OOM kill: {who} used {used} as the host ran out of memory"),
    }
}

/// Returns the memory that only this process's cgroup is charged for. Shared pages may belong to
/// another cgroup.
fn private_bytes(victim: &Victim) -> u64 {
    let Bytes(anonymous) = victim.anon_bytes;
    let Bytes(kernel) = victim.kernel_bytes;
    anonymous.saturating_add(kernel)
}

/// Returns a size with one decimal, so that a limit and a use can be compared.
fn mebibytes(bytes: u64) -> String {
    let tenths = u128::from(bytes) * 10 / (1 << 20);
    format!("{}.{}M", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oom::OomSource;

    fn incident(victims: Vec<Victim>, scope: Scope) -> Incident {
        Incident {
            victims,
            asked_by: None,
            scope,
            limit_bytes: Some(Bytes(32 << 20)),
            peak_bytes: None,
            group: false,
            source: OomSource::Ebpf,
            marked_ns: None,
            counter_before: 0,
            counter_after: 1,
        }
    }

    fn victim(command: &str) -> Victim {
        Victim {
            pid: 812,
            command: command.to_owned(),
            anon_bytes: Bytes(33_500_000),
            kernel_bytes: Bytes(54_432),
            ..Victim::default()
        }
    }

    #[test]
    fn a_kill_names_its_victim_its_use_and_its_limit() {
        let own = of_incident(&incident(vec![victim("python3")], Scope::Own));
        assert_eq!(
            own,
            "OOM kill: python3 (pid 812) used 32.0M of its 32M limit"
        );
        let above = Scope::Ancestor("/all".to_owned());
        let two = vec![victim("a"), victim("b")];
        assert_eq!(
            of_incident(&incident(two, above)),
            "OOM kill: a (pid 812) and 1 more used 64.0M as /all met its 32M limit"
        );
    }

    #[test]
    fn a_kill_without_a_mark_says_so() {
        assert_eq!(
            of_incident(&incident(Vec::new(), Scope::Own)),
            "OOM kill at its 32M limit (seen by the kernel's counters alone)"
        );
    }

    #[test]
    fn a_name_cannot_control_the_terminal() {
        let text = of_incident(&incident(vec![victim("\u{1b}[2Jx\n")], Scope::Host));
        assert!(!text.contains(['\u{1b}', '\n']), "{text}");
    }
}
