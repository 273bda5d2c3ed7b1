//! The target against a model of a disk: an array of blocks. Whatever commands come, over however many connections that
//! end in whatever way, what is read is what was written.

use crate::harness::{Served, Session, Who, cdb10, spec};
use onggi_block_iscsi::initiator::InitiatorEvent;
use onggi_block_iscsi::pdu::TaskManagementFunction;
use onggi_block_target::{ExportSpec, Options, Target};
use proptest::prelude::*;

const BLOCKS: usize = 512;
const BLOCK_BYTES: usize = 512;

#[derive(Debug, Clone)]
enum Act {
    Write {
        lba: usize,
        count: usize,
        byte: u8,
    },
    Read {
        lba: usize,
        count: usize,
    },
    WriteSame {
        lba: usize,
        count: usize,
        byte: u8,
    },
    Unmap {
        lba: usize,
        count: usize,
    },
    CompareAndWrite {
        lba: usize,
        is_equal: bool,
        byte: u8,
    },
    Flush,
    /// Several writes that are under way at once, to places of their own.
    Burst {
        lba: usize,
        byte: u8,
    },
    Reset,
    Logout,
    /// The connection is lost without a word.
    Cut,
    /// Another connection of the same name takes the session over.
    Reinstate,
    RestartTarget,
}

fn acts() -> impl Strategy<Value = Act> {
    let place = || (0..BLOCKS - 64, 1..64usize);
    prop_oneof![
        6 => (place(), any::<u8>()).prop_map(|((lba, count), byte)| Act::Write { lba, count, byte }),
        6 => place().prop_map(|(lba, count)| Act::Read { lba, count }),
        2 => (place(), any::<u8>()).prop_map(|((lba, count), byte)| Act::WriteSame { lba, count, byte }),
        2 => place().prop_map(|(lba, count)| Act::Unmap { lba, count }),
        2 => (0..BLOCKS, any::<bool>(), any::<u8>())
            .prop_map(|(lba, is_equal, byte)| Act::CompareAndWrite { lba, is_equal, byte }),
        1 => Just(Act::Flush),
        2 => (0..BLOCKS - 64, any::<u8>()).prop_map(|(lba, byte)| Act::Burst { lba, byte }),
        1 => Just(Act::Reset),
        1 => Just(Act::Logout),
        1 => Just(Act::Cut),
        1 => Just(Act::Reinstate),
        1 => Just(Act::RestartTarget),
    ]
}

struct Pair {
    served: Served,
    spec: ExportSpec,
    session: Option<Session>,
    model: Vec<u8>,
}

/// Bytes that differ from block to block.
fn pattern(byte: u8, lba: usize, count: usize) -> Vec<u8> {
    (0..count)
        .flat_map(|at| {
            let block = u8::try_from((lba + at) % 256).unwrap();
            std::iter::repeat_n(byte ^ block, BLOCK_BYTES)
        })
        .collect()
}

impl Pair {
    fn new() -> Self {
        let served = Served::start();
        let spec = spec(served.dir.path(), 1);
        served.client.put_export(&spec).unwrap();
        Self {
            served,
            spec,
            session: None,
            model: vec![0; BLOCKS * BLOCK_BYTES],
        }
    }

    fn session(&mut self) -> &mut Session {
        let (portal, iqn) = (self.served.portal, &self.spec.iqn);
        self.session.get_or_insert_with(|| {
            let mut session = Session::open(portal, Who::default(), Some(iqn)).unwrap();
            session.attentions();
            session
        })
    }

    fn note(&mut self, lba: usize, data: &[u8]) {
        self.model[lba * BLOCK_BYTES..][..data.len()].copy_from_slice(data);
    }

    fn good(&mut self, cdb: &[u8], data: &[u8]) {
        let outcome = self.session().run(cdb, data, 0).unwrap();
        assert_eq!(outcome.status, 0, "{cdb:x?}: {:x?}", outcome.sense);
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Write { lba, count, byte } => {
                let data = pattern(byte, lba, count);
                self.good(&cdb(0x2a, lba, count), &data);
                self.note(lba, &data);
            }
            Act::Read { lba, count } => self.compare(lba, count),
            Act::WriteSame { lba, count, byte } => {
                self.good(&cdb(0x41, lba, count), &[byte; BLOCK_BYTES]);
                self.note(lba, &vec![byte; count * BLOCK_BYTES]);
            }
            Act::Unmap { lba, count } => {
                let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
                list.extend(u64::try_from(lba).unwrap().to_be_bytes());
                list.extend(u32::try_from(count).unwrap().to_be_bytes());
                list.extend([0; 4]);
                self.good(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &list);
                self.note(lba, &vec![0; count * BLOCK_BYTES]);
            }
            Act::CompareAndWrite {
                lba,
                is_equal,
                byte,
            } => self.compare_and_write(lba, is_equal, byte),
            Act::Flush => self.good(&cdb10(0x35, 0, 0), &[]),
            Act::Burst { lba, byte } => self.burst(lba, byte),
            Act::Reset => {
                self.session()
                    .task_management(TaskManagementFunction::LogicalUnitReset);
                let event = self.session().next();
                assert!(
                    matches!(event, InitiatorEvent::TaskManagement(_)),
                    "{event:?}"
                );
                self.session().attentions();
            }
            Act::Logout => {
                self.session();
                self.session.take().unwrap().logout();
            }
            Act::Cut => drop(self.session.take()),
            Act::Reinstate => {
                self.session();
                let old = self.session.take();
                self.session();
                assert!(old.unwrap().is_cut());
            }
            Act::RestartTarget => self.restart(),
        }
    }

    fn compare(&mut self, lba: usize, count: usize) {
        let read = self
            .session()
            .read(u32::try_from(lba).unwrap(), count * BLOCK_BYTES);
        assert!(read == self.model[lba * BLOCK_BYTES..][..count * BLOCK_BYTES]);
    }

    fn compare_and_write(&mut self, lba: usize, is_equal: bool, byte: u8) {
        let mut expected = self.model[lba * BLOCK_BYTES..][..BLOCK_BYTES].to_vec();
        if !is_equal {
            expected[byte as usize] ^= 1;
        }
        let new = vec![byte; BLOCK_BYTES];
        let mut cdb = vec![0x89, 0];
        cdb.extend(u64::try_from(lba).unwrap().to_be_bytes());
        cdb.extend([0, 0, 0, 1, 0, 0]);
        let data = [&expected[..], &new].concat();
        let outcome = self.session().run(&cdb, &data, 0).unwrap();
        if is_equal {
            assert_eq!(outcome.status, 0, "{:x?}", outcome.sense);
            self.note(lba, &new);
        } else {
            assert_eq!((outcome.status, outcome.sense[2]), (2, 0x0e));
        }
    }

    fn burst(&mut self, lba: usize, byte: u8) {
        for at in 0..8 {
            let data = pattern(byte, lba + at * 8, 8);
            self.session().submit(&cdb(0x2a, lba + at * 8, 8), &data, 0);
            self.note(lba + at * 8, &data);
        }
        for _ in 0..8 {
            let event = self.session().next();
            assert!(
                matches!(&event, InitiatorEvent::Completed(outcome) if outcome.status == 0),
                "{event:?}"
            );
        }
    }

    fn restart(&mut self) {
        self.session = None;
        self.served.target.take().unwrap().stop();
        let options = Options::new(
            vec!["127.0.0.1:0".parse().unwrap()],
            self.served.dir.path().to_owned(),
        );
        let target = Target::start(&options).unwrap();
        self.served.portal = target.portals()[0].address;
        self.served.target = Some(target);
    }
}

fn cdb(opcode: u8, lba: usize, count: usize) -> Vec<u8> {
    cdb10(opcode, u32::try_from(lba).unwrap(), count * BLOCK_BYTES)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn the_target_is_an_array_of_blocks(acts in proptest::collection::vec(acts(), 1..40)) {
        let mut pair = Pair::new();
        for act in &acts {
            pair.act(act);
        }
        pair.compare(0, BLOCKS);
        let file = std::fs::read(&pair.spec.medium.path).unwrap();
        prop_assert!(file[..BLOCKS * BLOCK_BYTES] == pair.model);
    }
}
