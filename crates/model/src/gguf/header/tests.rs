use super::*;
use crate::random::philox4x32;

/// A header with values of all kinds and two tensors, and the length of its file.
fn good() -> (Vec<u8>, u64) {
    let mut out = Vec::new();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    out.extend(b"GGUF");
    out.extend(3_u32.to_le_bytes());
    out.extend(2_u64.to_le_bytes());
    out.extend(4_u64.to_le_bytes());
    text(&mut out, "general.architecture");
    out.extend(8_u32.to_le_bytes());
    text(&mut out, "phi3");
    text(&mut out, "general.alignment");
    out.extend(4_u32.to_le_bytes());
    out.extend(64_u32.to_le_bytes());
    text(&mut out, "words");
    out.extend(9_u32.to_le_bytes());
    out.extend(8_u32.to_le_bytes());
    out.extend(2_u64.to_le_bytes());
    text(&mut out, "a");
    text(&mut out, "ünd");
    text(&mut out, "nested");
    out.extend(9_u32.to_le_bytes());
    out.extend(9_u32.to_le_bytes());
    out.extend(1_u64.to_le_bytes());
    out.extend(7_u32.to_le_bytes());
    out.extend(2_u64.to_le_bytes());
    out.extend([0, 1]);
    for (name, ty, offset) in [("first", 2_u32, 0_u64), ("second", 0, 64)] {
        text(&mut out, name);
        out.extend(2_u32.to_le_bytes());
        out.extend(32_u64.to_le_bytes());
        out.extend(3_u64.to_le_bytes());
        out.extend(ty.to_le_bytes());
        out.extend(offset.to_le_bytes());
    }
    let file_len = (out.len() as u64).next_multiple_of(64) + 64 + 32 * 3 * 4;
    (out, file_len)
}

/// The good header with `from` replaced by `to` where it stands first.
fn with(from: &[u8], to: &[u8]) -> Vec<u8> {
    let (good, _) = good();
    let at = good.windows(from.len()).position(|window| window == from).expect("it stands there");
    [&good[..at], to, &good[at + from.len()..]].concat()
}

fn fault(bytes: &[u8]) -> GgufFault {
    Header::parse(bytes, good().1).expect_err("it is damaged").fault
}

#[test]
fn a_good_header_is_read() {
    let (bytes, file_len) = good();
    let header = Header::parse(&bytes, file_len).unwrap();
    assert_eq!(header.metadata.architecture().unwrap(), "phi3");
    assert_eq!(header.metadata.strings("words").unwrap(), ["a", "ünd"]);
    let nested = GgufArray::Array(vec![GgufArray::Bool(vec![false, true])]);
    assert_eq!(header.metadata.value("nested"), Some(&GgufValue::Array(nested)));
    let second = header.entry("second").unwrap();
    assert_eq!((&*second.shape, second.ty), (&[3, 32][..], GgmlType::F32));
    assert_eq!((second.end - second.begin, second.end as u64), (32 * 3 * 4, file_len));
    assert!(second.begin.is_multiple_of(64) && header.entry("third").is_none());
}

#[test]
fn every_rule_has_its_fault() {
    let (good, file_len) = good();
    let u64_of = |n: u64| n.to_le_bytes();
    let counts = |tensors: u64, keys: u64| {
        let mut bytes = good.clone();
        bytes[8..16].copy_from_slice(&u64_of(tensors));
        bytes[16..24].copy_from_slice(&u64_of(keys));
        bytes
    };
    let version = |version: [u8; 4]| [b"GGUF", &version[..], &good[8..]].concat();
    let name = |name: &str| [&u64_of(name.len() as u64)[..], name.as_bytes()].concat();
    assert_eq!(fault(b""), GgufFault::Magic);
    assert_eq!(fault(&with(b"GGUF", b"GGML")), GgufFault::Magic);
    assert_eq!(fault(&version([0, 0, 0, 3])), GgufFault::BigEndian);
    assert_eq!(fault(&version([1, 0, 0, 0])), GgufFault::Version { version: 1 });
    assert_eq!(fault(&version([4, 0, 0, 0])), GgufFault::Version { version: 4 });
    assert!(Header::parse(&version([2, 0, 0, 0]), file_len).is_ok());
    assert_eq!(fault(&counts(1 << 60, 4)), GgufFault::TooManyTensors { n: 1 << 60 });
    assert_eq!(fault(&counts(2, 1 << 60)), GgufFault::TooManyKeys { n: 1 << 60 });
    assert!(matches!(fault(&counts(2, 100_000)), GgufFault::Count { n: 100_000, each: 13, .. }));
    assert!(matches!(fault(&counts(1_000_000, 4)), GgufFault::Count { n: 1_000_000, each: 24, .. }));
    assert!(matches!(fault(&counts(3, 4)), GgufFault::Truncated { .. } | GgufFault::Count { .. }));
    assert!(matches!(fault(&good[..good.len() - 1]), GgufFault::Truncated { needed: 8, left: 7 }));
    assert_eq!(
        fault(&with(&name("phi3"), &[&u64_of(u64::MAX)[..], b"phi3"].concat())),
        GgufFault::StringTooLong { len: u64::MAX }
    );
    assert!(matches!(
        fault(&with(&name("phi3"), &[&u64_of(1 << 20)[..], b"phi3"].concat())),
        GgufFault::Truncated { needed: 1_048_576, .. }
    ));
    assert_eq!(fault(&with(b"phi3", b"phi\xff")), GgufFault::Utf8);
    let array = |n: u64| [&8_u32.to_le_bytes()[..], &u64_of(n), &name("a")].concat();
    assert_eq!(fault(&with(&array(2), &array(1 << 40))), GgufFault::ArrayTooLong { n: 1 << 40 });
    assert!(matches!(
        fault(&with(&array(2), &array(1 << 24))),
        GgufFault::Count { n: 16_777_216, each: 8, .. }
    ));
    let deep: Vec<u8> = (0..9).flat_map(|_| [&9_u32.to_le_bytes()[..], &u64_of(1)].concat()).collect();
    assert_eq!(fault(&with(&[7, 0, 0, 0, 2], &[&deep[..], &[7, 0, 0, 0, 2]].concat())), GgufFault::Nesting);
    assert_eq!(fault(&with(&[7, 0, 0, 0, 2], &[13, 0, 0, 0, 2])), GgufFault::ValueType { id: 13 });
    assert_eq!(
        fault(&with(&[&8_u32.to_le_bytes()[..], &name("phi3")].concat(), &77_u32.to_le_bytes())),
        GgufFault::ValueType { id: 77 }
    );
    assert_eq!(
        fault(&with(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 1], &[2, 0, 0, 0, 0, 0, 0, 0, 0, 2])),
        GgufFault::Bool { byte: 2 }
    );
    assert_eq!(fault(&with(&name("words"), &name("general.alignment"))), GgufFault::DuplicateKey);
    for alignment in [0, 4, 48, 1 << 21, u32::MAX] {
        assert_eq!(fault(&with(&64_u32.to_le_bytes(), &alignment.to_le_bytes())), GgufFault::Alignment);
    }
    assert_eq!(fault(&with(&name("second"), &name("first"))), GgufFault::DuplicateTensor);
    let described = |axes: u32, row: u64, rows: u64, ty: u32, offset: u64| {
        let mut bytes = name("second");
        bytes.extend(axes.to_le_bytes());
        bytes.extend([row, rows].map(u64::to_le_bytes).concat());
        bytes.extend(ty.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes
    };
    let changed = |bytes: Vec<u8>| fault(&with(&described(2, 32, 3, 0, 64), &bytes));
    assert_eq!(changed(described(5, 32, 3, 0, 64)), GgufFault::TooManyDimensions { n: 5 });
    assert_eq!(changed(described(2, 32, 3, 4, 64)), GgufFault::TensorType { id: 4 });
    assert_eq!(
        changed(described(2, 33, 3, 2, 64)),
        GgufFault::Row { row: 33, block: 32, ty: GgmlType::Q4_0 }
    );
    assert_eq!(
        changed(described(2, 1 << 40, 1 << 40, 0, 64)),
        GgufFault::ShapeOverflow { shape: vec![1 << 40; 2] }
    );
    assert_eq!(
        changed(described(2, 1 << 62, 1, 0, 64)),
        GgufFault::ShapeOverflow { shape: vec![1, 1 << 62] }
    );
    assert_eq!(changed(described(2, 32, 3, 0, 65)), GgufFault::Unaligned { offset: 65, alignment: 64 });
    for offset in [128, u64::MAX - 63] {
        assert!(matches!(changed(described(2, 32, 3, 0, offset)), GgufFault::BeyondFile { .. }));
    }
    assert!(matches!(changed(described(2, 32, 4, 0, 64)), GgufFault::BeyondFile { .. }));
    assert_eq!(changed(described(2, 32, 3, 0, 0)), GgufFault::Overlap { other: "first".into() });
}

#[test]
fn offences_name_part_and_place() {
    let offence = Header::parse(&with(b"phi3", b"phi\xff"), good().1).unwrap_err();
    assert_eq!(offence.part.as_deref(), Some("key `general.architecture`"));
    assert_eq!(offence.offset, 24 + 8 + 20 + 4 + 8 + 3);
    let (bytes, file_len) = good();
    let offence = Header::parse(&bytes, file_len - 1).unwrap_err();
    assert_eq!(offence.part.as_deref(), Some("tensor `second`"));
}

/// What damage does: each place of a tensor that is accepted lies within the file.
fn check(bytes: &[u8], file_len: u64) -> bool {
    let Ok(header) = Header::parse(bytes, file_len) else { return false };
    for entry in &header.tensors {
        assert!(entry.begin <= entry.end && entry.end as u64 <= file_len);
        let n_values: usize = entry.shape.iter().product();
        assert_eq!(entry.ty.bytes_of(n_values), Some(entry.end - entry.begin));
        assert!(header.entry(&entry.name).is_some());
    }
    true
}

#[test]
fn damage_never_panics() {
    let (good, file_len) = good();
    let mut counts = [0; 2];
    for case in 0..200_000 {
        let [place, value, kind, second] = philox4x32([case, 0, 0, 0], [3, 4]);
        let mut bytes = good.clone();
        let at = place as usize % bytes.len();
        match kind % 4 {
            0 => bytes[at] ^= 1 << (value % 8),
            1 => bytes[at] = [0, 1, 127, 128, 255][value as usize % 5],
            2 => bytes.truncate(at),
            _ => {
                bytes[at] = value as u8;
                bytes[second as usize % good.len()] ^= 1 << (second >> 29);
            }
        }
        counts[usize::from(check(&bytes, file_len))] += 1;
    }
    assert!(counts[0] > 100_000 && counts[1] > 10_000, "{counts:?} refused and accepted");
}
