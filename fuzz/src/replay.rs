//! Goes through the committed corpus of a target, and through seeded mutations of it, on the stable compiler.

use std::fs;
use std::path::Path;

use elmwood_model::random::philox4x32;

/// Runs `check` on every input of the corpus of `target`, and on `n_mutations` of them. The name says which input it
/// is: that of a file, or of two and the number of a mutation.
pub fn replay(target: &str, n_mutations: u32, mut check: impl FnMut(&str, &[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut inputs: Vec<(String, Vec<u8>)> = Vec::new();
    for file in fs::read_dir(&folder).expect("the corpus is committed") {
        let path = file.expect("a file of the corpus").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        inputs.push((name, fs::read(path).expect("a file of the corpus")));
    }
    inputs.sort();
    assert!(inputs.len() > 1, "{} holds inputs", folder.display());
    for (name, input) in &inputs {
        check(name, input);
    }
    for number in 0..n_mutations {
        let mut random = Random { number, drawn: 0 };
        let (name, input) = &inputs[random.below(inputs.len())];
        let (other_name, other) = &inputs[random.below(inputs.len())];
        let mut mutated = input.clone();
        for _ in 0..=random.below(4) {
            mutate(&mut mutated, other, &mut random);
        }
        check(&format!("{name} with {other_name}, mutation {number}"), &mutated);
    }
}

struct Random {
    number: u32,
    drawn: u32,
}

impl Random {
    fn draw(&mut self) -> u32 {
        self.drawn += 1;
        philox4x32([self.number, self.drawn, 0, 0], [7, 7])[0]
    }

    fn below(&mut self, n: usize) -> usize {
        self.draw() as usize % n.max(1)
    }

    /// A place, more often near the beginning, where headers are.
    fn place(&mut self, len: usize) -> usize {
        let span = len >> (2 * self.below(4));
        self.below(span.max(1))
    }
}

fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    const NUMBERS: [u64; 8] = [0, 1, 127, 1 << 15, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, u64::MAX];
    if input.is_empty() {
        return input.extend(other);
    }
    let at = random.place(input.len());
    let len = 1 + random.below(16).min(input.len() - at - 1);
    match random.below(8) {
        0 => input[at] ^= 1 << random.below(8),
        1 => input[at] = random.draw() as u8,
        2 => input[at] = b"0123456789{}[],:\"-."[random.below(19)],
        3 => {
            let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
            let n = number.len().min(input.len() - at);
            input[at..at + n].copy_from_slice(&number[..n]);
        }
        4 => drop(input.drain(at..at + len)),
        5 => {
            let again = input[at..at + len].to_vec();
            input.splice(at..at, again);
        }
        6 => input.truncate(at),
        _ => {
            let from = random.place(other.len());
            let part = other[from..].iter().take(1 + random.below(64)).copied();
            input.splice(at..at + len, part.collect::<Vec<u8>>());
        }
    }
}
