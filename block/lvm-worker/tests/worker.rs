//! The worker as its starter sees it. No root and no volume group are needed: LVM is shown no device at all.

use core::time::Duration;
use onggi_block_pool::lvm::protocol::{Request, Response};
use onggi_common_host::dialogue::{Dialogue, DialogueError};
use onggi_common_host::durable::{self, Visibility};
use std::path::Path;

const SOON: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_onggi-lvm-worker");

#[cfg(test)]
fn start(dir: &tempfile::TempDir, arguments: &[&str]) -> Dialogue {
    let config = "devices { filter = [ \"r|.*|\" ] global_filter = [ \"r|.*|\" ] use_devicesfile = 0 hints = \"none\" }\n\
                  global { activation = 0 }\n";
    durable::replace(
        &dir.path().join("lvm.conf"),
        config.as_bytes(),
        Visibility::World,
    )
    .unwrap();
    let environment = [
        ("LVM_SYSTEM_DIR", dir.path().as_os_str()),
        ("LVM_SUPPRESS_FD_WARNINGS", "1".as_ref()),
        ("LC_ALL", "C".as_ref()),
    ];
    Dialogue::start(Path::new(PROGRAM), arguments, environment, 1 << 20).unwrap()
}

#[cfg(test)]
fn ask(worker: &mut Dialogue, id: u64, words: &[&str]) -> Response {
    let args = words.iter().map(|word| (*word).to_owned()).collect();
    let request = Request {
        id,
        args,
        limit_ms: 30_000,
    };
    let answer = worker
        .ask(&serde_json::to_string(&request).unwrap(), SOON)
        .unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[test]
fn the_library_and_the_program_give_the_same_answers() {
    let dir = tempfile::tempdir().unwrap();
    let mut library = start(&dir, &[]);
    let mut program = start(&dir, &["--exec"]);
    let commands: [(&[&str], i32); 6] = [
        (&["segtypes"], 0),
        (&["fullreport", "--reportformat", "json"], 0),
        (&["vgs", "--config", "global{ units=\"k\" }"], 0),
        (&["nosuchcommand"], 2),
        (&["vgs", "--nosuchoption"], 3),
        (&["vgs", "nosuchgroup"], 5),
    ];
    for (id, (words, status)) in (1..).zip(commands) {
        let (a, b) = (ask(&mut library, id, words), ask(&mut program, id, words));
        assert_eq!((a.id, a.status), (id, status), "{words:?}: {}", a.log);
        assert_eq!((a.status, &a.stdout), (b.status, &b.stdout), "{words:?}");
        let is_said = |response: &Response| response.log.contains("nosuch");
        assert_eq!(is_said(&a), is_said(&b), "{words:?}: {} {}", a.log, b.log);
    }
}

#[test]
fn what_cannot_be_a_command_is_refused_and_the_worker_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = start(&dir, &[]);
    let refused = ask(&mut worker, 1, &["vgs", "a\nb"]);
    assert_eq!(
        (refused.status, refused.log.contains("cannot be a word")),
        (127, true),
        "{}",
        refused.log
    );
    assert_eq!(ask(&mut worker, 2, &["segtypes"]).status, 0);
}

#[test]
fn it_ends_when_its_input_closes() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = start(&dir, &[]);
    let pid = worker.pid();
    assert_eq!(ask(&mut worker, 1, &["segtypes"]).status, 0);
    worker.close(SOON);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn what_is_no_request_ends_it_with_a_complaint() {
    let dir = tempfile::tempdir().unwrap();
    for (arguments, line) in [(&[][..], "vgs"), (&["--nosuch"][..], "{}")] {
        let error = start(&dir, arguments).ask(line, SOON).unwrap_err();
        assert!(
            matches!(&error, DialogueError::Ended { status, .. } if status.contains('1')),
            "{error}"
        );
    }
}

#[test]
fn a_hundred_commands_leave_no_output_of_one_in_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = start(&dir, &[]);
    let first = ask(&mut worker, 0, &["segtypes"]).stdout;
    for id in 1..100 {
        assert_eq!(ask(&mut worker, id, &["vgs", "nosuchgroup"]).stdout, "");
        assert_eq!(ask(&mut worker, id, &["segtypes"]).stdout, first);
    }
}
