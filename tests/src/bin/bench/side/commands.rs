//! Commands of a shell: a start, and questions.

use super::{
    FOLDER, MANY, Samples, apply, fresh_file, monotonic, print, shell, stamps, timed, unit,
};
use enforcer_tests::wait_for;
use std::process::{Command, Stdio};

/// Starts a stopped program, in turn with each supervisor.
pub(super) fn start(floor: &Samples) {
    let [first, returned] = starts("", "");
    let [ours, theirs] = first;
    let peer = ("systemctl", &theirs);
    print(("start", "start → first instruction"), &ours, peer, floor);
    let [ours, theirs] = returned;
    print(
        ("start-returns", "start → the command returns"),
        &ours,
        ("systemctl", &theirs),
        floor,
    );
}

/// Starts a stopped program in each sandbox, in turn with a unit that has the same directives.
pub(super) fn sandboxes(floor: &Samples) {
    for level in ["default", "strict"] {
        let keys = format!("sandbox: {level}\n    read_write_paths: [{FOLDER}]\n");
        let directives = shell(&format!("enforcer sandbox show {level} --unit"));
        let service = directives.split_once("[Service]\n");
        let directives = service.map_or("", |(_, directives)| directives);
        let [[ours, theirs], _] = starts(&keys, &format!("ReadWritePaths={FOLDER}\n{directives}"));
        let name = format!("start-{level}");
        let what = format!("start with `sandbox: {level}` → first instruction");
        print((&name, &what), &ours, ("systemctl", &theirs), floor);
    }
}

/// Returns the times until the program's first instruction, and until the command returns: ours and
/// theirs.
fn starts(keys: &str, directives: &str) -> [[Samples; 2]; 2] {
    let (ours, theirs) = (fresh_file("enforcer-starts"), fresh_file("systemd-starts"));
    apply(&format!(
        "  web:\n    command: [/usr/bin/floor, stamp, {ours}]\n    user: web\n    \
         cgroup: {{ memory.max: 64M }}\n    stop: {{ signal: SIGKILL }}\n    {keys}"
    ));
    unit(
        "web.service",
        &format!(
            "ExecStart=/usr/bin/floor stamp {theirs}\nUser=web\nMemoryMax=64M\nKillSignal=SIGKILL\n{directives}"
        ),
    );
    let mut first = [Vec::new(), Vec::new()];
    let mut returned = [Vec::new(), Vec::new()];
    for _ in 0..MANY {
        let sides = [("enforcer", &ours), ("systemctl", &theirs)];
        for (side, (program, file)) in sides.into_iter().enumerate() {
            // systemd refuses nothing here: a stopped unit stays stopped.
            shell(&format!("{program} stop web"));
            let before = stamps(file, "first").len();
            let begun = monotonic();
            let ended = Command::new(program)
                .args(["start", "web"])
                .stdin(Stdio::null())
                .output()
                .unwrap();
            assert!(ended.status.success(), "{ended:?}");
            returned[side].push(monotonic() - begun);
            let stamp = wait_for("the start", || stamps(file, "first").get(before).copied());
            first[side].push(stamp - begun);
        }
    }
    shell("systemctl stop web");
    apply("");
    [first.map(Samples::of), returned.map(Samples::of)]
}

/// Asks without changing anything.
pub(super) fn answers(floor: &Samples) {
    let commands: [&[&str]; 4] = [
        &["/usr/bin/floor"],
        &["/bin/true"],
        &["enforcer", "--version"],
        &["systemctl", "--version"],
    ];
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..MANY {
        for (command, times) in commands.iter().zip(&mut times) {
            times.push(timed(command));
        }
    }
    let [floor_program, bare, ours, theirs] = times.map(Samples::of);
    println!("  a static C program: {floor_program}");
    println!("  /bin/true: {bare}");
    print(
        ("version", "--version"),
        &ours,
        ("systemctl", &theirs),
        floor,
    );
    println!("    enforcer / /bin/true: {:.2}", ours.ratio_to(&bare));
}
