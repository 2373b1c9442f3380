//! Buckets of ids, the slots that they are in, and what a node tells of who serves them. It talks to nobody.

use std::collections::HashMap;
use std::sync::LazyLock;

use sessile_engine::SessionId;

/// Every id is in one of so many buckets, by its first byte: in order of the ids, and evenly, as ids are hashes.
pub(in crate::redis) const BUCKETS: usize = 256;
const SLOTS: u16 = 16384;
/// Slots for each bucket.
const STRIDE: u16 = SLOTS / BUCKETS as u16;

/// A bucket's name and slot.
pub(in crate::redis) struct Bucket {
    pub(in crate::redis) tag: String,
    pub(in crate::redis) slot: u16,
}

/// All buckets. The name of each is chosen so that its slot lies in its own 256th of all slots: whoever serves so many
/// slots in a row serves as many buckets as any other.
pub(in crate::redis) static TAGS: LazyLock<Vec<Bucket>> = LazyLock::new(|| {
    (0..BUCKETS as u16)
        .map(|bucket| {
            let names = (0_u32..).map(|n| format!("{bucket:02x}-{n}"));
            let with_slots = names.map(|tag| Bucket { slot: crc16(tag.as_bytes()) % SLOTS, tag });
            // There is one: the sum takes every value.
            let mut right = with_slots.filter(|found| found.slot / STRIDE == bucket);
            right.next().unwrap_or(Bucket { tag: String::new(), slot: 0 })
        })
        .collect()
});

/// The bucket that `id` belongs to.
pub(in crate::redis) fn bucket_of(id: &SessionId) -> u8 {
    id.as_bytes()[0]
}

/// CRC16 of the XMODEM kind, which decides the slot of a key.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ u16::from(*byte) << 8,
            |crc: u16, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
            },
        )
    })
}

/// Who serves what, as one node sees it or as several together do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::redis) struct Topology {
    /// Primaries that can be asked, also those without slots: a slot may be on its way to one.
    pub(in crate::redis) primaries: Vec<String>,
    /// For each bucket its server and the age of that claim. The newer one counts.
    pub(in crate::redis) owners: HashMap<u8, (u64, String)>,
    /// What the node that said so is itself.
    pub(in crate::redis) says_primary: bool,
}

impl Topology {
    /// Reads the answer to `CLUSTER NODES` of the node at `asked`, which may not know its own address.
    pub(in crate::redis) fn parse(text: &str, asked: &str) -> Option<Self> {
        let mut topology = Self::default();
        let mut lines = 0;
        for line in text.lines().filter(|line| !line.is_empty()) {
            lines += 1;
            let fields: Vec<_> = line.split(' ').collect();
            let [_, address, flags, _, _, _, epoch, _, slots @ ..] = &fields[..] else { return None };
            let flags: Vec<_> = flags.split(',').collect();
            let is = |flag: &str| flags.contains(&flag);
            if !is("master") || is("noaddr") || is("handshake") {
                continue;
            }
            topology.says_primary |= is("myself");
            let Some(address) = address_of(address, asked) else { continue };
            let epoch: u64 = epoch.parse().ok()?;
            // `[slot->-node]` is on its way; it is still served here.
            let ranges: Vec<_> = slots.iter().filter_map(|range| range_of(range)).collect();
            // A primary that failed keeps its slots until a replica takes them. Without any it is not missed.
            if !is("fail") || !ranges.is_empty() {
                topology.primaries.push(address.clone());
            }
            for (bucket, at) in (0..=u8::MAX).zip(&*TAGS) {
                if ranges.iter().any(|(first, last)| (*first..=*last).contains(&at.slot)) {
                    topology.claim(bucket, epoch, &address);
                }
            }
        }
        (lines > 0).then_some(topology)
    }

    fn claim(&mut self, bucket: u8, epoch: u64, address: &str) {
        match self.owners.get(&bucket) {
            Some((known, _)) if *known >= epoch => {}
            _ => {
                self.owners.insert(bucket, (epoch, address.to_owned()));
            }
        }
    }

    /// Takes over what another node sees: of two claims to a slot the newer one counts, as among the nodes themselves.
    pub(in crate::redis) fn merge(&mut self, other: Self) {
        for (bucket, (epoch, address)) in other.owners {
            self.claim(bucket, epoch, &address);
        }
        self.primaries.extend(other.primaries);
        self.primaries.sort_unstable();
        self.primaries.dedup();
    }
}

/// `ip:port@bus,name`: the name if there is one, as certificates have it.
fn address_of(field: &str, asked: &str) -> Option<String> {
    let (address, rest) = field.split_once('@').unwrap_or((field, ""));
    let (ip, port) = address.rsplit_once(':')?;
    let name = rest.split(',').nth(1).filter(|name| !name.is_empty() && !name.contains('='));
    match name.unwrap_or(ip) {
        "" => at_same_host(asked, port),
        host => Some(format!("{host}:{port}")),
    }
}

/// Where a node sends us: one that does not know its own name leaves it out.
pub(in crate::redis) fn redirected(to: &str, asked: &str) -> Option<String> {
    let (host, port) = to.rsplit_once(':')?;
    if host.is_empty() || host == "?" { at_same_host(asked, port) } else { Some(to.to_owned()) }
}

fn at_same_host(asked: &str, port: &str) -> Option<String> {
    let (host, _) = asked.rsplit_once(':')?;
    Some(format!("{host}:{port}"))
}

fn range_of(field: &str) -> Option<(u16, u16)> {
    let (first, last) = field.split_once('-').unwrap_or((field, field));
    Some((first.parse().ok()?, last.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_slots_are_those_of_the_servers() {
        // From the specification, and from CLUSTER KEYSLOT.
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(crc16(b"user1000") % SLOTS, 3443);
    }

    /// Other names would be other keys: what is stored could not be found any more.
    #[test]
    fn the_names_of_the_buckets_are_pinned_and_spread_evenly() {
        assert_eq!(TAGS.len(), BUCKETS);
        for (bucket, found) in (0..).zip(&*TAGS) {
            assert_eq!(found.slot / STRIDE, bucket, "{}", found.tag);
            assert_eq!(found.slot, crc16(found.tag.as_bytes()) % SLOTS);
            assert!(found.tag.starts_with(&format!("{bucket:02x}-")));
        }
        let all: Vec<_> = TAGS.iter().map(|found| &*found.tag).collect();
        assert_eq!(crc16(all.join(",").as_bytes()), PINNED);
    }

    const PINNED: u16 = 0x673F;

    #[test]
    fn what_nodes_say_is_understood() {
        let text = "\
a 127.0.0.1:7001@17001 myself,master - 0 1 3 connected 0-5460 [5460->-b]
b 127.0.0.1:7002@17002,db2.internal master - 0 1 2 connected 5461-10922
c 127.0.0.1:7003@17003 master,fail - 0 1 1 disconnected
d 127.0.0.1:7004@17004 slave a 0 1 1 connected
e 127.0.0.1:7005@17005,,shard-id=xx master - 0 1 5 connected 10923-16383
f :0@0 master,noaddr - 0 1 9 disconnected
g 127.0.0.1:7007@17007 master - 0 1 0 connected
";
        let found = Topology::parse(text, "127.0.0.1:7001").unwrap();
        assert!(found.says_primary);
        assert_eq!(
            found.primaries,
            ["127.0.0.1:7001", "db2.internal:7002", "127.0.0.1:7005", "127.0.0.1:7007"]
        );
        assert_eq!(found.owners.len(), BUCKETS);
        assert_eq!(found.owners[&0], (3, "127.0.0.1:7001".to_owned()));
        assert_eq!(found.owners[&255], (5, "127.0.0.1:7005".to_owned()));
        // A node that was cut off still believes in its slots; whoever took them over has a newer claim.
        let new = "d 127.0.0.1:7004@17004 myself,master - 0 1 7 connected 0-5460\n";
        let newer = Topology::parse(new, "127.0.0.1:7004").unwrap();
        let (mut one, mut other) = (found.clone(), newer.clone());
        one.merge(newer);
        other.merge(found);
        assert_eq!(one.owners, other.owners);
        assert_eq!(one.owners[&0].1, "127.0.0.1:7004");
        let alone = Topology::parse("a :7001@17001 myself,master - 0 1 3 connected 0\n", "h:7001").unwrap();
        assert_eq!(alone.primaries, ["h:7001"]);
        assert_eq!(redirected(":7002", "h:7001").as_deref(), Some("h:7002"));
        assert_eq!(redirected("x:7002", "h:7001").as_deref(), Some("x:7002"));
        assert_eq!(redirected("nonsense", "h:7001"), None);
    }

    proptest! {
        #[test]
        fn nothing_that_a_node_says_is_too_much(text in "[ -~\n]{0,200}", asked in "[ -~]{0,20}") {
            let _ = Topology::parse(&text, &asked);
            let _ = redirected(&text, &asked);
        }
    }
}
