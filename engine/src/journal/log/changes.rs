//! Changes as frames: what the log appends for each, and what that tells the index. It writes into the buffer of the
//! segment that is written and nowhere else.

use super::super::frame::{self, Kind};
use super::super::index::{Place, State, owner_hash};
use super::Active;
use crate::store::{Change, Row, row};
use crate::token::SessionId;

impl Active {
    pub(super) fn push(&mut self, change: &Change) {
        match change {
            Change::Insert { id, row } | Change::Update { id, row, .. } | Change::Put { id, row } => {
                self.push_put(id, row);
            }
            Change::Delete { id } => {
                self.push_id(Kind::Delete, id);
                self.told.push((*id, 0, State::Deleted));
            }
            Change::Quarantine { id } => {
                self.push_id(Kind::Quarantine, id);
                self.told.push((*id, 0, State::Quarantined));
            }
            Change::Rekey { from, to, row, .. } => {
                let start = self.buffer.len();
                frame::push(&mut self.buffer, self.seed, self.at, Kind::Rekey, |b| {
                    b.extend_from_slice(from.as_bytes());
                    b.extend_from_slice(to.as_bytes());
                    row::append(to.as_bytes(), row, b);
                });
                if from != to {
                    self.told.push((*from, 0, State::Deleted));
                }
                self.tell_row(to, row, start + frame::FRAME_HEADER + 64);
            }
        }
    }

    fn push_put(&mut self, id: &SessionId, row: &Row) {
        let start = self.buffer.len();
        frame::push(&mut self.buffer, self.seed, self.at, Kind::Put, |b| {
            b.extend_from_slice(id.as_bytes());
            row::append(id.as_bytes(), row, b);
        });
        self.tell_row(id, row, start + frame::FRAME_HEADER + 32);
    }

    fn push_id(&mut self, kind: Kind, id: &SessionId) {
        frame::push(&mut self.buffer, self.seed, self.at, kind, |b| b.extend_from_slice(id.as_bytes()));
    }

    /// `at` is where the row begins in the buffer.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a segment ends before 4 GiB, and a row before 32 MiB"
    )]
    fn tell_row(&mut self, id: &SessionId, row: &Row, at: usize) {
        let place = Place {
            segment: self.number,
            at: (self.at + at as u64) as u32,
            len: row::encoded_len(row) as u32,
        };
        self.told.push((*id, owner_hash(row.owner.as_deref()), State::Row(place)));
    }
}

/// Bytes that a change adds to the log, at most.
pub(super) fn size(change: &Change) -> usize {
    let row = match change {
        Change::Insert { row, .. }
        | Change::Update { row, .. }
        | Change::Put { row, .. }
        | Change::Rekey { row, .. } => row::encoded_len(row),
        Change::Delete { .. } | Change::Quarantine { .. } => 0,
    };
    row + frame::FRAME_HEADER + 64 + 8
}
