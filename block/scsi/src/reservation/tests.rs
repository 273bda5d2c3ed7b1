//! Tests of the reservation module.

use super::out::{Around, Changes};
use super::parameters::ALL_TG_PT;
use super::*;
use crate::wire::Builder;
use proptest::prelude::*;

fn nexus(number: u8) -> Nexus {
    Nexus::new("iqn.2026-11.org.onggi:host", [0x80, 0, 0, 0, 0, number], 1)
}

fn request(action: OutAction, kind: u8) -> OutRequest {
    OutRequest {
        action,
        scope: 0,
        kind,
        length: 24,
    }
}

fn parameters(key: u64, service_key: u64) -> Vec<u8> {
    let mut data = Builder::new();
    data.u64(key).u64(service_key).zeros(8);
    data.finish()
}

fn out(
    state: &mut Reservations,
    who: u8,
    action: (OutAction, u8),
    keys: (u64, u64),
) -> Result<Notices, Refusal> {
    let list = parameters(keys.0, keys.1);
    out_with(state, who, request(action.0, action.1), &list).map(|changes| changes.notices)
}

fn out_with(
    state: &mut Reservations,
    who: u8,
    request: OutRequest,
    list: &[u8],
) -> Result<Changes, Refusal> {
    let known = |name: &str| {
        let is_known = name == &*nexus(0).initiator;
        if is_known {
            vec![nexus(7), nexus(8), nexus(9).through(2)]
        } else {
            Vec::new()
        }
    };
    let around = Around {
        known: &known,
        ports: &[1, 2],
    };
    state.persistent_out(&nexus(who), request, list, &around)
}

fn two_registered() -> Reservations {
    let mut state = Reservations::default();
    out(&mut state, 1, (OutAction::Register, 0), (0, 0xa)).unwrap();
    out(&mut state, 2, (OutAction::Register, 0), (0, 0xb)).unwrap();
    state
}

#[test]
fn registering_counts_generations_and_needs_the_right_key() {
    let mut state = two_registered();
    assert_eq!(
        state.persistent_in(InAction::ReadKeys),
        [
            0, 0, 0, 2, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0xa, 0, 0, 0, 0, 0, 0, 0, 0xb
        ]
    );
    assert_eq!(
        out(&mut state, 1, (OutAction::Register, 0), (0xb, 0xc)),
        Err(Refusal::Conflict)
    );
    assert_eq!(
        out(&mut state, 3, (OutAction::Register, 0), (0xb, 0xc)),
        Err(Refusal::Conflict)
    );
    assert!(out(&mut state, 1, (OutAction::RegisterAndIgnore, 0), (0, 0xc)).is_ok());
    assert_eq!(state.registrations[&nexus(1)], 0xc);
    // Unregistering what is not registered is no error and no new generation.
    assert!(out(&mut state, 3, (OutAction::RegisterAndIgnore, 0), (7, 0)).is_ok());
    assert_eq!(state.generation, 3);
}

#[test]
fn a_bad_list_is_refused_and_changes_nothing() {
    let mut state = two_registered();
    let mut specific = parameters(0, 9);
    specific[20] = 8;
    let ignoring = request(OutAction::RegisterAndIgnore, 0);
    assert_eq!(
        out_with(&mut state, 3, ignoring, &specific),
        Err(Refusal::Check(Sense::INVALID_FIELD_IN_PARAMETERS)),
        "SPEC_I_PT is REGISTER's alone"
    );
    for (length, data) in [(23, 24), (25, 25), (24, 23), (0, 0), (u32::MAX, 24)] {
        let request = OutRequest {
            length,
            ..request(OutAction::Register, 0)
        };
        let refused = out_with(&mut state, 3, request, &vec![0; data]);
        assert_eq!(
            refused,
            Err(Refusal::Check(Sense::PARAMETER_LIST_LENGTH)),
            "{length} {data}"
        );
    }
    for kind in [0, 2, 4, 9, 15] {
        let refused = out(&mut state, 1, (OutAction::Reserve, kind), (0xa, 0));
        assert_eq!(refused, Err(Refusal::Check(Sense::INVALID_FIELD_IN_CDB)));
    }
    assert_eq!(state.generation, 2);
    assert!(!state.is_registered(&nexus(3)));
}

#[test]
fn each_type_shuts_out_whom_it_should() {
    // type, (registered reads, writes), (stranger reads, writes): true means shut out
    for (kind, registered, stranger) in [
        (1, (false, true), (false, true)),
        (3, (true, true), (true, true)),
        (5, (false, false), (false, true)),
        (6, (false, false), (true, true)),
        (7, (false, false), (false, true)),
        (8, (false, false), (true, true)),
    ] {
        let mut state = two_registered();
        out(&mut state, 1, (OutAction::Reserve, kind), (0xa, 0)).unwrap();
        let shut = |who: u8| {
            (
                state.conflicts(Rule::Read, false, &nexus(who)),
                state.conflicts(Rule::Write, false, &nexus(who)),
            )
        };
        assert_eq!(shut(1), (false, false), "holder, type {kind}");
        assert_eq!(shut(2), registered, "registered, type {kind}");
        assert_eq!(shut(3), stranger, "stranger, type {kind}");
        assert!(!state.conflicts(Rule::TestUnitReady, false, &nexus(3)));
        assert!(!state.conflicts(Rule::Start, true, &nexus(3)));
        assert!(state.conflicts(Rule::Start, false, &nexus(3)));
    }
}

#[test]
fn only_the_holder_releases_and_with_the_type_it_holds() {
    let mut state = two_registered();
    out(&mut state, 1, (OutAction::Reserve, 5), (0xa, 0)).unwrap();
    assert_eq!(
        out(&mut state, 1, (OutAction::Reserve, 6), (0xa, 0)),
        Err(Refusal::Conflict)
    );
    assert_eq!(
        out(&mut state, 2, (OutAction::Reserve, 5), (0xb, 0)),
        Err(Refusal::Conflict)
    );
    assert_eq!(
        out(&mut state, 2, (OutAction::Release, 5), (0xb, 0)),
        Ok(Notices::new())
    );
    assert!(state.reservation.is_some());
    assert_eq!(
        out(&mut state, 1, (OutAction::Release, 6), (0xa, 0)),
        Err(Refusal::Check(Sense::INVALID_RELEASE))
    );
    let notices = out(&mut state, 1, (OutAction::Release, 5), (0xa, 0)).unwrap();
    assert_eq!(notices, [(nexus(2), UnitAttention::ReservationsReleased)]);
    assert!(state.reservation.is_none());
}

#[test]
fn unregistering_the_holder_ends_the_reservation_and_tells_only_the_others() {
    for (kind, told) in [(1, 0), (3, 0), (5, 1), (6, 1)] {
        let mut state = two_registered();
        out(&mut state, 1, (OutAction::Reserve, kind), (0xa, 0)).unwrap();
        let notices = out(&mut state, 1, (OutAction::Register, 0), (0xa, 0)).unwrap();
        assert_eq!(notices.len(), told, "type {kind}");
        assert!(notices.iter().all(|(who, _)| *who == nexus(2)));
        assert!(state.reservation.is_none());
    }
}

#[test]
fn an_all_registrants_reservation_lives_as_long_as_one_of_them() {
    let mut state = two_registered();
    out(&mut state, 1, (OutAction::Reserve, 8), (0xa, 0)).unwrap();
    out(&mut state, 1, (OutAction::Register, 0), (0xa, 0)).unwrap();
    assert!(state.conflicts(Rule::Read, false, &nexus(1)));
    assert_eq!(
        state.persistent_in(InAction::ReadReservation)[8..16],
        [0; 8]
    );
    out(&mut state, 2, (OutAction::Register, 0), (0xb, 0)).unwrap();
    assert!(!state.conflicts(Rule::Write, false, &nexus(3)));
}

#[test]
fn preempting_the_holder_takes_the_reservation_over() {
    let mut state = two_registered();
    out(&mut state, 1, (OutAction::Reserve, 1), (0xa, 0)).unwrap();
    let notices = out(&mut state, 2, (OutAction::Preempt, 3), (0xb, 0xa)).unwrap();
    assert_eq!(notices, [(nexus(1), UnitAttention::RegistrationsPreempted)]);
    assert!(!state.is_registered(&nexus(1)) && state.is_holder(&nexus(2)));
    assert_eq!(
        out(&mut state, 2, (OutAction::Preempt, 3), (0xb, 0xdead)),
        Err(Refusal::Conflict)
    );
    assert_eq!(
        out(&mut state, 2, (OutAction::Preempt, 3), (0xb, 0)),
        Err(Refusal::Check(Sense::INVALID_FIELD_IN_PARAMETERS))
    );
}

#[test]
fn clear_removes_everything_and_tells_the_others() {
    let mut state = two_registered();
    out(&mut state, 1, (OutAction::Reserve, 3), (0xa, 0)).unwrap();
    let notices = out(&mut state, 2, (OutAction::Clear, 0), (0xb, 0)).unwrap();
    assert_eq!(notices, [(nexus(1), UnitAttention::ReservationsPreempted)]);
    assert!(state.registrations.is_empty() && state.reservation.is_none());
}

#[test]
fn reserve6_shuts_out_others_until_released_reset_or_gone() {
    let mut state = Reservations::default();
    state.reserve6(&nexus(1)).unwrap();
    assert_eq!(state.reserve6(&nexus(2)), Err(Refusal::Conflict));
    state.release6(&nexus(2)).unwrap();
    for rule in [
        Rule::TestUnitReady,
        Rule::Read,
        Rule::Write,
        Rule::Start,
        Rule::Persistent,
    ] {
        assert!(state.conflicts(rule, true, &nexus(2)), "{rule:?}");
        assert!(!state.conflicts(rule, true, &nexus(1)), "{rule:?}");
    }
    assert!(!state.conflicts(Rule::Allowed, false, &nexus(2)));
    state.forget_nexus(&nexus(1));
    assert!(state.reserve6(&nexus(2)).is_ok());
    state.reset();
    assert!(state.reserve6(&nexus(1)).is_ok());
}

#[test]
fn full_status_names_each_initiator_port() {
    let mut state = two_registered();
    out(&mut state, 2, (OutAction::Reserve, 5), (0xb, 0)).unwrap();
    let data = state.persistent_in(InAction::ReadFullStatus);
    let first = u32::from_be_bytes(data[28..32].try_into().unwrap()) as usize;
    assert_eq!(data[8 + 12], 0);
    assert_eq!(data[32], 0x45);
    assert!(
        String::from_utf8_lossy(&data[36..])
            .starts_with("iqn.2026-11.org.onggi:host,i,0x800000000001\0")
    );
    let second = 32 + first;
    assert_eq!((data[second + 12], data[second + 13]), (1, 5));
    assert_eq!(data.len() % 4, 0);
}

// REGISTER AND MOVE to a port; bit 1 of the flags is UNREG, bit 0 APTPL.
fn moving(key: u64, service_key: u64, to: u8, flags: u8) -> (OutRequest, Vec<u8>) {
    let id = transport_id::encode(&nexus(to));
    let mut list = Builder::new();
    list.u64(key).u64(service_key).u8(0).u8(flags).u16(1);
    list.u32(u32::try_from(id.len()).unwrap()).bytes(&id);
    let list = list.finish();
    let length = u32::try_from(list.len()).unwrap();
    let request = OutRequest {
        length,
        ..request(OutAction::RegisterAndMove, 0)
    };
    (request, list)
}

#[test]
fn preempt_and_abort_names_those_whose_commands_end_and_never_the_preemptor() {
    let mut state = two_registered();
    out(&mut state, 3, (OutAction::Register, 0), (0, 0xb)).unwrap();
    out(&mut state, 1, (OutAction::Reserve, 7), (0xa, 0)).unwrap();
    let list = parameters(0xa, 0xb);
    let changes = out_with(&mut state, 1, request(OutAction::PreemptAndAbort, 7), &list).unwrap();
    assert_eq!(changes.aborted, [nexus(2), nexus(3)]);
    assert_eq!(changes.notices.len(), 2);
    let plain = parameters(0xa, 0);
    let changes = out_with(&mut state, 1, request(OutAction::Preempt, 3), &plain).unwrap();
    assert!(changes.aborted.is_empty() && state.is_holder(&nexus(1)));
}

#[test]
fn a_registration_is_for_the_port_it_came_through_or_for_all() {
    let mut state = two_registered();
    let through_two = nexus(1).through(2);
    assert!(state.is_registered(&nexus(1)) && !state.is_registered(&through_two));
    out(&mut state, 1, (OutAction::Reserve, 1), (0xa, 0)).unwrap();
    assert!(state.conflicts(Rule::Write, false, &through_two));
    let all = |key, service_key| {
        let mut list = parameters(key, service_key);
        list[20] = ALL_TG_PT;
        list
    };
    let register = request(OutAction::Register, 0);
    out_with(&mut state, 1, register, &all(0xa, 0xc)).unwrap();
    assert_eq!(state.registrations.get(&nexus(1)), Some(&0xc));
    assert_eq!(state.registrations.get(&through_two), Some(&0xc));
    assert_eq!(state.generation, 3, "one command, two ports");
    // The reservation is still the nexus's that made it.
    assert!(state.is_holder(&nexus(1)) && !state.is_holder(&through_two));
    let status = state.persistent_in(InAction::ReadFullStatus);
    assert_eq!((status[8 + 19], status.len() > 100), (1, true));
    out_with(&mut state, 1, register, &all(0xc, 0)).unwrap();
    assert!(!state.is_registered(&nexus(1)) && !state.is_registered(&through_two));
    assert!(state.is_registered(&nexus(2)));
}

#[test]
fn register_and_move_hands_the_reservation_on() {
    let mut state = two_registered();
    let (request, list) = moving(0xa, 0xc, 3, 0);
    assert_eq!(
        out_with(&mut state, 1, request, &list),
        Err(Refusal::Check(Sense::INVALID_FIELD_IN_CDB)),
        "nothing is held"
    );
    out(&mut state, 1, (OutAction::Reserve, 1), (0xa, 0)).unwrap();
    for (key, service_key, to, wanted) in [
        (0xb, 0xc, 3, Refusal::Conflict),
        (
            0xa,
            0,
            3,
            Refusal::Check(Sense::INVALID_FIELD_IN_PARAMETERS),
        ),
        (
            0xa,
            0xc,
            1,
            Refusal::Check(Sense::INVALID_FIELD_IN_PARAMETERS),
        ),
    ] {
        let (request, list) = moving(key, service_key, to, 0);
        assert_eq!(out_with(&mut state, 1, request, &list), Err(wanted));
    }
    let (move_request, list) = moving(0xb, 0xc, 3, 0);
    let not_holder = out_with(&mut state, 2, move_request, &list);
    assert_eq!(not_holder, Err(Refusal::Check(Sense::INVALID_FIELD_IN_CDB)));
    out_with(&mut state, 1, request, &list_of(0xa)).unwrap();
    assert!(state.is_holder(&nexus(3)) && state.is_registered(&nexus(1)));
    assert_eq!(state.registrations[&nexus(3)], 0xc);
    let (request, list) = moving(0xc, 0xd, 1, 2);
    out_with(&mut state, 3, request, &list).unwrap();
    assert!(state.is_holder(&nexus(1)) && !state.is_registered(&nexus(3)));
    assert_eq!(state.registrations[&nexus(1)], 0xd);
    out(&mut state, 1, (OutAction::Release, 1), (0xd, 0)).unwrap();
    out(&mut state, 1, (OutAction::Reserve, 8), (0xd, 0)).unwrap();
    let (request, list) = moving(0xd, 0xe, 3, 0);
    assert_eq!(
        out_with(&mut state, 1, request, &list),
        Err(Refusal::Conflict),
        "every registered one holds it"
    );
}

fn list_of(key: u64) -> Vec<u8> {
    moving(key, 0xc, 3, 0).1
}

#[test]
fn spec_i_pt_registers_all_it_names_or_none() {
    let list_with = |ids: &[u8]| {
        let mut list = parameters(0, 0xd);
        list[20] = 0x08 | 0x04;
        list.extend(u32::try_from(ids.len()).unwrap().to_be_bytes());
        list.extend(ids);
        let length = u32::try_from(list.len()).unwrap();
        let request = OutRequest {
            length,
            ..request(OutAction::Register, 0)
        };
        (request, list)
    };
    let mut state = two_registered();
    let mut ids = transport_id::encode(&nexus(4));
    ids.extend(transport_id::encode(&nexus(5)));
    let (good, list) = list_with(&ids);
    assert_eq!(
        out_with(&mut state, 1, good, &list),
        Err(Refusal::Check(Sense::INVALID_FIELD_IN_CDB)),
        "it is registered already"
    );
    ids.extend(transport_id::encode(&nexus(2)));
    let (twice, twice_list) = list_with(&ids);
    let refused = out_with(&mut state, 3, twice, &twice_list);
    let wanted = Err(Refusal::Check(Sense::INVALID_FIELD_IN_PARAMETERS));
    assert_eq!(refused, wanted, "2 is registered already");
    assert_eq!(state.registrations.len(), 2);
    out_with(&mut state, 3, good, &list).unwrap();
    for who in [3, 4, 5] {
        assert_eq!(state.registrations[&nexus(who)], 0xd);
    }
    let mut device = vec![0x05, 0, 0, 28];
    device.extend(b"iqn.2026-11.org.onggi:host\0\0");
    let (by_name, list) = list_with(&device);
    out_with(&mut state, 6, by_name, &list).unwrap();
    assert!(state.is_registered(&nexus(7)) && state.is_registered(&nexus(8)));
    let mut short = list.clone();
    short.truncate(40);
    let request = OutRequest {
        length: 40,
        ..by_name
    };
    let refused = out_with(&mut state, 9, request, &short);
    assert_eq!(refused, Err(Refusal::Check(Sense::PARAMETER_LIST_LENGTH)));
}

#[test]
fn what_is_kept_follows_the_last_aptpl_and_comes_back() {
    let mut state = two_registered();
    assert_eq!(state.saved(), None);
    assert_eq!(
        state.persistent_in(InAction::ReportCapabilities)[2..4],
        [0x0d, 0x80]
    );
    let mut list = parameters(0xa, 0xa);
    list[20] = 1;
    let register = request(OutAction::Register, 0);
    assert!(out_with(&mut state, 1, register, &list).unwrap().must_save);
    assert_eq!(state.persistent_in(InAction::ReportCapabilities)[3], 0x81);
    let reserve = request(OutAction::Reserve, 5);
    let changes = out_with(&mut state, 1, reserve, &parameters(0xa, 0)).unwrap();
    assert!(changes.must_save);
    let again = out_with(&mut state, 1, reserve, &parameters(0xa, 0)).unwrap();
    assert!(!again.must_save, "nothing changed");
    let mut back = Reservations::restore(state.saved().unwrap()).unwrap();
    assert!(back.is_holder(&nexus(1)) && back.is_registered(&nexus(2)));
    assert!(back.conflicts(Rule::Write, false, &nexus(3)));
    let changes = out_with(&mut back, 1, register, &parameters(0xa, 0xa)).unwrap();
    assert!(changes.must_save && back.saved().is_none());
    let mut broken = state.saved().unwrap();
    broken.registrations.remove(0);
    assert_eq!(
        Reservations::restore(broken).unwrap_err(),
        SavedError::Holder
    );
}

proptest! {
    #[test]
    fn no_sequence_leaves_a_reservation_without_a_registered_holder(
        steps in prop::collection::vec((0u8..4, 0u8..8, 0u8..9, 0u64..3, 0u64..3), 0..60)
    ) {
        let mut state = Reservations::default();
        for (who, action, kind, key, service_key) in steps {
            let action = [
                OutAction::Register, OutAction::Reserve, OutAction::Release, OutAction::Clear,
                OutAction::Preempt, OutAction::RegisterAndIgnore, OutAction::PreemptAndAbort,
                OutAction::RegisterAndMove,
            ][usize::from(action)];
            if action == OutAction::RegisterAndMove {
                let (request, list) = moving(key, service_key, (who + 1) % 4, kind & 3);
                drop(out_with(&mut state, who, request, &list));
            } else {
                drop(out(&mut state, who, (action, kind), (key, service_key)));
            }
            let saved = SavedReservations {
                registrations: state.registrations.clone().into_iter().collect(),
                reservation: state.reservation.clone(),
            };
            prop_assert!(Reservations::restore(saved).is_ok());
            if let Some(held) = &state.reservation {
                prop_assert!(!state.registrations.is_empty());
                if !held.kind.is_all_registrants() {
                    prop_assert!(state.is_registered(&held.holder));
                }
            }
            prop_assert!(state.registrations.values().all(|key| *key != 0));
        }
    }
}
