//! B1 over whole connections: initiators at work, a medium that loses what was not flushed, and a power cut after every
//! answer.

use super::*;
use crate::export::{Access, ExportSpec};
use crate::medium::testing::MemoryMedium;
use bytes::Bytes;
use onggi_block_initiator::ConnectionSpec;
use onggi_block_initiator::session::{Request, Session, SessionTimes};
use onggi_block_iscsi::pdu::CdbBytes;
use onggi_block_medium::{ExtentMap, MediumKind, MediumSpec};
use onggi_common_units::{ByteCount, Uuid};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::sync::mpsc;

const VOLUME_BYTES: usize = 64 << 10;
/// The sectors that are written: few, so that writes meet.
const SECTORS: usize = 24;
const SESSIONS: usize = 2;
const FUA: u8 = 0x08;
/// How often each state of the medium is cut.
const CUTS: usize = 3;

#[derive(Debug, Clone, Copy)]
enum Act {
    Write {
        first: usize,
        count: usize,
        is_through: bool,
    },
    Synchronize,
}

/// A command and when it began and ended, by a clock that counts both.
#[derive(Debug)]
struct Command {
    act: Act,
    began: usize,
    ended: Option<usize>,
}

impl Command {
    fn touches(&self, sector: usize) -> bool {
        matches!(self.act, Act::Write { first, count, .. } if (first..first + count).contains(&sector))
    }

    fn ended_before(&self, other: &Self) -> bool {
        self.ended.is_some_and(|ended| ended < other.began)
    }
}

/// A target with one volume in memory, and initiators that are logged in to it.
struct Bench {
    target: Option<Target>,
    sessions: Vec<Session>,
    medium: Arc<MemoryMedium>,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let portal = "127.0.0.1:0".parse().unwrap();
        let mut options = Options::new(vec![portal], folder.path().to_owned());
        options.data_threads = 2;
        let target = Target::start(&options).unwrap();
        let spec = export(folder.path());
        let registry = &target.shared.registry;
        registry.put(spec.clone()).unwrap();
        let unit = registry.unit(&registry.find(&spec.iqn).unwrap()).unwrap();
        let medium = Arc::new(MemoryMedium::new(VOLUME_BYTES));
        let capacity = unit.capacity();
        unit.replace_medium(Arc::clone(&medium) as _, capacity);
        let connection = ConnectionSpec {
            volume: spec.volume,
            attachment: spec.access[0].attachment,
            portals: vec![target.portals()[0].address.to_string()],
            iqn: spec.iqn,
            lun: spec.lun,
            initiator_name: "iqn.2026-11.org.onggi:writer".to_owned(),
            chap: None,
            mutual_chap: None,
            is_read_only: false,
        };
        let open = |_| Session::open(&connection, SessionTimes::default()).unwrap();
        let bench = Self {
            sessions: (0..SESSIONS).map(open).collect(),
            target: Some(target),
            medium,
            _folder: folder,
        };
        for session in &bench.sessions {
            // Unit attentions come first.
            while session
                .execute(request(&[0; 6], Bytes::new()))
                .unwrap()
                .status
                != 0
            {}
        }
        bench
    }

    /// Carries out batches of commands, each command by one of the sessions, and cuts power after every answer.
    fn run(&self, batches: &[Vec<(usize, Act)>], seed: u64) -> Result<(), String> {
        let mut commands: Vec<Command> = Vec::new();
        let (mut clock, mut chance) = (0, seed | 1);
        for batch in batches {
            let (sender, receiver) = mpsc::channel();
            for (session, act) in batch {
                let number = commands.len();
                commands.push(Command {
                    act: *act,
                    began: clock,
                    ended: None,
                });
                clock += 1;
                let sender = sender.clone();
                let answer = move |reply| drop(sender.send((number, reply)));
                self.sessions[session % SESSIONS]
                    .submit(request_of(*act, number), Box::new(answer));
            }
            drop(sender);
            for (number, reply) in receiver {
                assert_eq!(reply.unwrap().status, 0);
                commands[number].ended = Some(clock);
                clock += 1;
                for _ in 0..CUTS {
                    let left = self.medium.after_power_loss(|| {
                        // xorshift64: the same cuts for the same seed.
                        chance ^= chance << 13;
                        chance ^= chance >> 7;
                        chance ^= chance << 17;
                        chance.is_multiple_of(3)
                    });
                    verify(&commands, &left)?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.sessions.clear();
        if let Some(target) = self.target.take() {
            target.stop();
        }
    }
}

fn export(folder: &std::path::Path) -> ExportSpec {
    let path = folder.join("volume");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(VOLUME_BYTES as u64).unwrap();
    ExportSpec {
        iqn: "iqn.2026-11.org.onggi:volume".to_owned(),
        lun: 1,
        volume: Uuid::from_bytes([3; 16]),
        medium: MediumSpec {
            path,
            kind: MediumKind::File,
            extents: ExtentMap::linear(ByteCount::new(VOLUME_BYTES as u64)).unwrap(),
            fence: None,
        },
        block_size: 512,
        read_only: false,
        access: vec![Access {
            attachment: Uuid::from_bytes([4; 16]),
            initiator: None,
            chap: None,
            mutual: None,
        }],
    }
}

fn request(cdb: &[u8], data: impl Into<Bytes>) -> Request {
    Request {
        cdb: CdbBytes::new(cdb).unwrap(),
        read_bytes: 0,
        data: data.into(),
    }
}

/// Every sector a command writes holds the command's number, off by one.
fn request_of(act: Act, number: usize) -> Request {
    let mut cdb = [0; 10];
    match act {
        Act::Write {
            first,
            count,
            is_through,
        } => {
            (cdb[0], cdb[1]) = (0x2a, if is_through { FUA } else { 0 });
            cdb[5] = u8::try_from(first).unwrap();
            cdb[8] = u8::try_from(count).unwrap();
            request(&cdb, (number + 1).to_le_bytes().repeat(64 * count))
        }
        Act::Synchronize => {
            cdb[0] = 0x35;
            request(&cdb, Bytes::new())
        }
    }
}

/// Whether a command's effect is promised: it wrote through, or a flush that began after its end has ended.
fn is_durable(command: &Command, commands: &[Command]) -> bool {
    let Act::Write { is_through, .. } = command.act else {
        return false;
    };
    let is_flushed = |later: &Command| {
        matches!(later.act, Act::Synchronize)
            && later.ended.is_some()
            && command.ended_before(later)
    };
    command.ended.is_some() && (is_through || commands.iter().any(is_flushed))
}

/// Each sector holds what a command wrote that no promised write came after.
fn verify(commands: &[Command], left: &[u8]) -> Result<(), String> {
    for sector in 0..SECTORS {
        let bytes = &left[sector * 512..][..512];
        let found = usize::from_le_bytes(bytes[..8].try_into().unwrap()).checked_sub(1);
        let whole = found
            .map_or(0, |number| number + 1)
            .to_le_bytes()
            .repeat(64);
        if bytes != whole {
            return Err(format!("sector {sector} is torn"));
        }
        let writer = found.map(|number| &commands[number]);
        if writer.is_some_and(|writer| !writer.touches(sector)) {
            return Err(format!("sector {sector} holds what was written elsewhere"));
        }
        let promised = commands
            .iter()
            .filter(|command| command.touches(sector) && is_durable(command, commands));
        for promised in promised {
            if writer.is_none_or(|writer| writer.ended_before(promised)) {
                return Err(format!(
                    "sector {sector} holds {writer:?} after {promised:?}"
                ));
            }
        }
    }
    Ok(())
}

fn batches() -> impl Strategy<Value = Vec<Vec<(usize, Act)>>> {
    let write =
        (0..SECTORS, 1..6usize, any::<bool>()).prop_map(|(first, count, is_through)| Act::Write {
            first: first.min(SECTORS - count),
            count,
            is_through,
        });
    let act = prop_oneof![4 => write, 1 => Just(Act::Synchronize)];
    let batch = prop::collection::vec((0..SESSIONS, act), 1..8);
    prop::collection::vec(batch, 1..12)
}

#[test]
fn acknowledged_writes_survive_a_power_cut_after_any_answer() {
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&(batches(), any::<u64>()), |(batches, seed)| {
            let bench = Bench::start();
            bench.run(&batches, seed).map_err(TestCaseError::fail)
        })
        .unwrap();
}

#[test]
fn a_flush_that_does_nothing_is_noticed() {
    let bench = Bench::start();
    bench.medium.skips_flush.store(true, Ordering::Relaxed);
    let write = |is_through| Act::Write {
        first: 3,
        count: 2,
        is_through,
    };
    let flushed = [vec![(0, write(false))], vec![(1, Act::Synchronize)]];
    assert!(bench.run(&flushed, 1).is_err());
    let bench = Bench::start();
    bench.medium.skips_flush.store(true, Ordering::Relaxed);
    assert!(bench.run(&[vec![(0, write(true))]], 1).is_err());
}
