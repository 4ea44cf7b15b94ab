//! Inputs made hostile: bytes turned over, lengths replaced, JSON told otherwise. A pure function of a seed.

use serde_json::{Map, Value, json};

/// SplitMix64.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below `n`, which may be 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Numbers at which programs break.
const EXTREMES: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 33,
    1 << 40,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 7,
    u64::MAX,
];

/// Bytes changed in one place or a few.
pub fn bytes(rng: &mut Rng, original: &[u8]) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..1 + rng.below(3) {
        let at = rng.below(bytes.len());
        let end = bytes.len().min(at + 1 + rng.below(64));
        if bytes.is_empty() {
            return bytes;
        }
        match rng.below(9) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = *rng.pick(&[0, 0xff, 0x80, b'"', b'{', b'\n', 0x1b]),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again = bytes[at..end].to_vec();
                let to = rng.below(bytes.len());
                drop(bytes.splice(to..to, again));
            }
            4 => bytes.truncate(at),
            5 => {
                let from = bytes[at..end].to_vec();
                let to = rng.below(bytes.len());
                bytes.iter_mut().skip(to).zip(from).for_each(|(byte, from)| *byte = from);
            }
            // A length, of four bytes or eight.
            width @ (6 | 7) => {
                let number = rng.pick(&EXTREMES).to_le_bytes();
                let width = if width == 6 { 4 } else { 8 };
                bytes.iter_mut().skip(at).zip(&number[..width]).for_each(|(byte, new)| *byte = *new);
            }
            _ => {
                let with: Vec<u8> = (0..rng.below(40)).map(|_| rng.next() as u8).collect();
                drop(bytes.splice(at..at, with));
            }
        }
    }
    bytes
}

/// A value that nobody expects.
pub fn odd_value(rng: &mut Rng) -> Value {
    match rng.below(22) {
        0 => Value::Null,
        1 => true.into(),
        2 => false.into(),
        3 => (-1).into(),
        4 => (*rng.pick(&EXTREMES)).into(),
        5 => i64::MIN.into(),
        6 => 1e308.into(),
        7 => 1e-320.into(),
        8 => (-0.0).into(),
        9 => 0.5.into(),
        10 => "".into(),
        11 => "\u{1b}[31m\u{7}\0\u{202e}é漢".into(),
        12 => "x".repeat(100_000).into(),
        13 => json!([]),
        14 => json!({}),
        15 => (0..100).fold(json!(1), |inner, _| json!([inner])),
        16 => (0..100).fold(json!({}), |inner, _| json!({ "type": "Sequence", "normalizers": [inner] })),
        17 => vec![0; 10_000].into(),
        18 => (rng.below(100_000) as u64).into(),
        19 => (2f64.powi(rng.below(80) as i32 - 20)).into(),
        20 => "../../../etc/passwd".into(),
        _ => "NaN".into(),
    }
}

/// One value of a JSON text, or its name, told otherwise; sometimes several.
pub fn json(rng: &mut Rng, original: &Value) -> Value {
    let mut value = original.clone();
    for _ in 0..1 + rng.below(6) / 4 {
        let nodes = count(&value);
        let donor = nth(&value, rng.below(nodes)).clone();
        let mut at = rng.below(nodes);
        change(rng, &mut value, &mut at, &donor);
    }
    value
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum::<usize>(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

fn nth(value: &Value, at: usize) -> &Value {
    fn find<'a>(value: &'a Value, at: &mut usize) -> Option<&'a Value> {
        if *at == 0 {
            return Some(value);
        }
        *at -= 1;
        match value {
            Value::Array(list) => list.iter().find_map(|value| find(value, at)),
            Value::Object(fields) => fields.values().find_map(|value| find(value, at)),
            _ => None,
        }
    }
    find(value, &mut { at }).unwrap_or(value)
}

/// Changes the value that is `at` steps on in the text.
fn change(rng: &mut Rng, value: &mut Value, at: &mut usize, donor: &Value) -> bool {
    if *at == 0 {
        match (rng.below(5), &mut *value) {
            (0, Value::Object(fields)) if !fields.is_empty() => {
                let name = rng.pick(&fields.keys().cloned().collect::<Vec<_>>()).clone();
                let old = fields.remove(&name).unwrap_or_default();
                if rng.one_in(2) {
                    fields.insert(format!("{name}x"), old);
                }
            }
            (0, Value::Array(list)) if !list.is_empty() => {
                let again = list[rng.below(list.len())].clone();
                list.push(again);
            }
            (1, _) => *value = donor.clone(),
            _ => *value = odd_value(rng),
        }
        return true;
    }
    *at -= 1;
    match value {
        Value::Array(list) => list.iter_mut().any(|value| change(rng, value, at, donor)),
        Value::Object(fields) => values(fields).any(|value| change(rng, value, at, donor)),
        _ => false,
    }
}

fn values(fields: &mut Map<String, Value>) -> impl Iterator<Item = &mut Value> {
    fields.iter_mut().map(|(_, value)| value)
}
