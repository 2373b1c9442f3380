//! Renewals that broke off, or lost an item in the middle: a session never has two ids, and whoever comes next can work with
//! what is there.

use super::*;

/// What stood after `steps` steps of a renewal of 1, owned by a user, to 2.
fn broken_off(server: &Server, name: &str, steps: u32) -> (MemcachedStore, [String; 2]) {
    let store = builder(server).prefix(name).connect().unwrap();
    let keys = [1, 2].map(|n| format!("{name}/1/s/{}", id(n)));
    done(&store, &[insert(1, owned(5, "u")), insert(2, owned(6, "u"))]);
    if steps < 3 {
        let (row, _) = server.item(&keys[1]).unwrap();
        server.set(&keys[1], &[b"p", &id(1).as_bytes()[..], &row[1..]].concat());
    }
    if steps > 1 {
        server.set(&keys[0], &[b"m", &id(2).as_bytes()[..]].concat());
    }
    (store, keys)
}

/// Nothing of the renewal is left but a row, or a tombstone.
fn is_settled(server: &Server, keys: &[String; 2]) -> bool {
    let tags = keys.iter().filter_map(|key| server.item(key).map(|(value, _)| value[0]));
    tags.into_iter().all(|tag| tag == b'r' || tag == b't')
}

#[test]
fn before_the_decision_only_the_old_id_counts() {
    let Some(server) = Server::start(&[]) else { return };
    for case in 0..9 {
        let (store, keys) = broken_off(&server, &format!("case{case}"), 1);
        assert_eq!((load(&store, 1), load(&store, 2)), (Some(owned(5, "u")), None));
        match case {
            0 => {
                // The same renewal is made again, and brings what it brings now.
                done(&store, &[rekey(1, 5, 2, owned(7, "u"))]);
                assert_eq!((load(&store, 1), load(&store, 2)), (None, Some(owned(7, "u"))));
                assert!(is_settled(&server, &keys));
            }
            1 => {
                assert_eq!(commit(&store, &[update(2, 6, row(7))]).unwrap(), [Outcome::Missing]);
                done(&store, &[update(1, 5, owned(6, "u"))]);
            }
            2 => {
                done(&store, &[delete(1)]);
                assert_eq!((load(&store, 1), load(&store, 2)), (None, None), "it does not come back");
                assert_eq!(commit(&store, &[rekey(1, 5, 2, row(1))]).unwrap(), [Outcome::Missing]);
                assert!(is_settled(&server, &keys), "it has taken back what it prepared");
            }
            3 => {
                done(&store, &[rekey(1, 5, 3, owned(7, "u"))]);
                assert_eq!((load(&store, 2), load(&store, 3)), (None, Some(owned(7, "u"))));
            }
            4 => {
                // Its version has changed meanwhile: nothing is left of the attempt.
                done(&store, &[update(1, 5, owned(6, "u"))]);
                let found = commit(&store, &[rekey(1, 5, 2, row(7))]).unwrap();
                assert_eq!(found, [Outcome::Conflict { found: 6 }]);
                assert!(is_settled(&server, &keys));
                assert_eq!((load(&store, 1), load(&store, 2)), (Some(owned(6, "u")), None));
            }
            5 => {
                assert_eq!(commit(&store, &[rekey(2, 6, 3, row(7))]).unwrap(), [Outcome::Missing]);
                assert!(load(&store, 3).is_none());
            }
            6 => {
                server.evict(&keys[0]);
                assert_eq!(
                    (load(&store, 1), load(&store, 2)),
                    (None, None),
                    "an eviction makes nothing count"
                );
                done(&store, &[insert(1, row(9))]);
                assert_eq!((load(&store, 1), load(&store, 2)), (Some(row(9)), None));
            }
            7 => {
                server.evict(&keys[1]);
                done(&store, &[rekey(1, 5, 2, owned(7, "u"))]);
                assert_eq!((load(&store, 1), load(&store, 2)), (None, Some(owned(7, "u"))));
            }
            _ => assert_eq!(commit(&store, &[insert(2, row(1))]).unwrap(), [Outcome::Exists]),
        }
    }
}

/// After the decision, with the new row still pending (2 steps) or not (3): by whatever call it is met first.
#[test]
fn after_the_decision_only_the_new_id_counts() {
    let Some(server) = Server::start(&[]) else { return };
    for (steps, call) in (2..=3).flat_map(|steps| (0..12).map(move |call| (steps, call))) {
        let (store, keys) = broken_off(&server, &format!("s{steps}c{call}"), steps);
        let case = format!("{steps} steps, call {call}");
        let mut still = Some(owned(6, "u"));
        match call {
            0 => assert_eq!(load(&store, 1), None, "{case}"),
            1 => assert_eq!(load(&store, 2), still, "{case}"),
            2 => assert_eq!(commit(&store, &[update(1, 5, row(6))]).unwrap(), [Outcome::Missing], "{case}"),
            3 => {
                still = Some(owned(7, "u"));
                done(&store, &[update(2, 6, owned(7, "u"))]);
            }
            4 => done(&store, &[delete(1)]),
            5 => {
                still = None;
                done(&store, &[delete(2)]);
            }
            6 => {
                // The way there is lost before the row counts by itself, or after.
                server.evict(&keys[0]);
                still = still.filter(|_| steps == 3);
            }
            7 | 8 => {
                done(&store, &[if call == 7 { insert(1, row(9)) } else { put(1, row(9)) }]);
                assert_eq!(load(&store, 1), Some(row(9)), "{case}");
                done(&store, &[delete(1)]);
            }
            9 => {
                done(&store, &[rekey(2, 6, 3, owned(7, "u"))]);
                assert_eq!(load(&store, 3), Some(owned(7, "u")), "{case}");
                still = None;
            }
            10 => {
                assert_eq!(commit(&store, &[rekey(1, 5, 3, row(7))]).unwrap(), [Outcome::Missing], "{case}");
            }
            _ => {
                // Sent again, as its answer was lost.
                let again = commit(&store, &[rekey(1, 5, 2, owned(6, "u"))]).unwrap();
                assert_eq!(again, [Outcome::Exists], "{case}");
            }
        }
        assert_eq!((load(&store, 1), load(&store, 2)), (None, still), "{case}");
        assert_eq!(commit(&store, &[update(1, 5, row(6))]).unwrap(), [Outcome::Missing], "{case}");
    }
}

/// Readers look all the while, from another store, as a session goes from id to id.
#[test]
fn a_session_that_is_renewed_again_and_again_never_has_two_ids() {
    const RENEWALS: u32 = 300;
    let Some(server) = Server::start(&[]) else { return };
    let (writer, reader) = (open(&server), open(&server));
    done(&writer, &[insert(0, row(1))]);
    std::thread::scope(|scope| {
        let renewing = scope.spawn(|| {
            for n in 0..RENEWALS {
                done(&writer, &[rekey(n, u64::from(n) + 1, n + 1, row(u64::from(n) + 2))]);
            }
        });
        let mut at = 0;
        while !renewing.is_finished() {
            // The newer one first: if it counts, the older one does not any more.
            if load(&reader, at + 1).is_some() {
                assert_eq!(load(&reader, at), None, "two ids at {at}");
                at += 1;
            }
        }
        renewing.join().unwrap();
    });
    assert_eq!(load(&reader, RENEWALS), Some(row(u64::from(RENEWALS) + 1)));
    assert!((0..RENEWALS).all(|n| load(&reader, n).is_none()));
}
