//! The bytes of frames and headers: they come back, nothing that was changed or moved passes, and they are pinned.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use proptest::prelude::*;

use super::frame::*;
use crate::token::SessionId;

const JOURNAL: [u8; 16] = *b"a journal's name";

/// A frame of `kind` at the offset `at`, which must be one of a multiple of 8.
fn frame(kind: Kind, seed: Seed, at: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    push(&mut bytes, seed, at, kind, |b| b.extend_from_slice(payload));
    bytes
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Put),
        Just(Kind::Delete),
        Just(Kind::Rekey),
        Just(Kind::Quarantine),
        Just(Kind::Mark),
        Just(Kind::Batch)
    ]
}

/// `frame` where it belongs: behind `at` other bytes.
fn placed(at: usize, frame: &[u8]) -> Vec<u8> {
    let mut segment = vec![0; at];
    segment.extend_from_slice(frame);
    segment
}

proptest! {
    #[test]
    fn every_frame_comes_back(kind in kinds(), number: u32, slot in 8_usize..64, payload in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (seed, at) = (Seed::new(&JOURNAL, number), slot * 8);
        let segment = placed(at, &frame(kind, seed, at as u64, &payload));
        let parsed = Frame::parse(&segment, at, seed).unwrap();
        prop_assert_eq!((parsed.kind, parsed.payload, parsed.len), (kind, &payload[..], segment.len() - at));
    }

    #[test]
    fn no_flipped_bit_passes(kind in kinds(), payload in proptest::collection::vec(any::<u8>(), 0..300), bit: prop::sample::Index) {
        let seed = Seed::new(&JOURNAL, 1);
        let mut segment = placed(64, &frame(kind, seed, 64, &payload));
        let bit = bit.index((segment.len() - 64) * 8);
        segment[64 + bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Frame::parse(&segment, 64, seed).is_none());
    }

    #[test]
    fn no_frame_passes_elsewhere(kind in kinds(), payload in proptest::collection::vec(any::<u8>(), 0..300), other in 9_usize..64, number in 2_u32..) {
        let seed = Seed::new(&JOURNAL, 1);
        let bytes = frame(kind, seed, 64, &payload);
        prop_assert!(Frame::parse(&placed(other * 8, &bytes), other * 8, seed).is_none());
        let here = placed(64, &bytes);
        prop_assert!(Frame::parse(&here, 64, Seed::new(&JOURNAL, number)).is_none());
        prop_assert!(Frame::parse(&here, 64, Seed::new(b"another journal!", 1)).is_none());
    }

    #[test]
    fn arbitrary_bytes_are_no_frame(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0_usize..220) {
        prop_assert!(Frame::parse(&bytes, at, Seed::new(&JOURNAL, 1)).is_none());
    }

    /// With a right checksum over anything: an answer or none, never a panic.
    #[test]
    fn a_forged_frame_is_told_or_not(kind in kinds(), payload in proptest::collection::vec(any::<u8>(), 0..120)) {
        let seed = Seed::new(&JOURNAL, 1);
        let segment = placed(64, &frame(kind, seed, 64, &payload));
        if let Some(Told::Batch(batch)) = Frame::parse(&segment, 64, seed).unwrap().told() {
            let _ = batch.frames(&segment, segment.len());
        }
    }

    #[test]
    fn every_header_comes_back_and_no_flipped_bit_passes(number: u32, base in 64_u64..1 << 62, now: u64, bit in 0_usize..512) {
        let header = Header { journal: JOURNAL, number, base, now };
        let mut bytes = header.encode();
        prop_assert_eq!(Header::decode(&bytes), Ok(header));
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Header::decode(&bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_are_no_header(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        prop_assert!(Header::decode(&bytes).is_err());
    }
}

#[test]
fn a_batch_is_all_of_its_frames_or_nothing() {
    let seed = Seed::new(&JOURNAL, 1);
    let at = 64 + BATCH_FRAME as u64;
    let frames = frame(Kind::Delete, seed, at, &[1; 32]);
    // Of another attempt at the same place: right by itself.
    let other = frame(Kind::Delete, seed, at, &[2; 32]);
    let mut head = Vec::new();
    push_batch(&mut head, seed, 64, &frames);
    let batch = |frames: &[u8]| {
        let segment = placed(64, &[&head[..], frames].concat());
        let Some(Told::Batch(batch)) = Frame::parse(&segment, 64, seed).unwrap().told() else { panic!() };
        assert!(Frame::parse(&segment, 64 + BATCH_FRAME, seed).is_some());
        batch.frames(&segment, 64 + BATCH_FRAME).is_some()
    };
    assert!(batch(&frames));
    assert!(!batch(&other));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Header and one frame of each kind, as `docs/format.md` describes them.
#[test]
fn the_bytes_are_pinned() {
    let header = Header { journal: JOURNAL, number: 7, base: 4096, now: 1000 };
    let mut bytes = header.encode().to_vec();
    let (from, to) = (SessionId::from_bytes([0xA1; 32]), SessionId::from_bytes([0xB2; 32]));
    let at = bytes.len() as u64;
    let mut frames = Vec::new();
    push(&mut frames, header.seed(), at, Kind::Put, |b| {
        b.extend_from_slice(from.as_bytes());
        b.extend_from_slice(b"a row");
    });
    push(&mut frames, header.seed(), at, Kind::Delete, |b| b.extend_from_slice(from.as_bytes()));
    push(&mut frames, header.seed(), at, Kind::Rekey, |b| {
        b.extend_from_slice(from.as_bytes());
        b.extend_from_slice(to.as_bytes());
        b.extend_from_slice(b"row");
    });
    push(&mut frames, header.seed(), at, Kind::Quarantine, |b| b.extend_from_slice(to.as_bytes()));
    push_mark(&mut frames, header.seed(), at, &Mark { synced: 4100, oldest: 6, now: 1001 });
    push_batch(&mut frames, header.seed(), at, &[9; 48]);
    bytes.extend_from_slice(&frames);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/journal-v1.hex");
    if std::env::var_os("SESSILE_WRITE_FIXTURES").is_some() {
        std::fs::write(path, hex(&bytes) + "\n").unwrap();
    }
    assert_eq!(hex(&bytes), std::fs::read_to_string(path).unwrap().trim());
}
