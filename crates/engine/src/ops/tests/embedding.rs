//! The rows of a table.

use super::{U, assert_close, narrow, on_every_isa, slopes, widen};
use crate::ops::embedding;
use crate::testing::random;
use crate::{Cpu, Isa};

const VOCAB: usize = 11;

/// Tokens in no order, most of them several times, the last id never.
fn tokens(count: usize) -> Vec<u32> {
    (0..count).map(|i| (i * i * 7 + i / 3) as u32 % (VOCAB as u32 - 1)).collect()
}

fn check(token_count: usize, features: usize) {
    let tokens = tokens(token_count);
    let table = random(VOCAB * features, 1);
    let dy = random(token_count * features, 2);
    let before = random(VOCAB * features, 3);
    let rows = |table: &[f64]| -> Vec<f64> {
        tokens.iter().flat_map(|token| table[*token as usize * features..][..features].to_vec()).collect()
    };
    let want = rows(&widen(&table));
    // A coordinate of the table moves its own column alone.
    let want_gradient: Vec<f64> = if token_count * features <= 400 {
        slopes(&widen(&table), 1.0, |table| {
            rows(table).iter().zip(&dy).map(|(y, dy)| y * f64::from(*dy)).sum()
        })
    } else {
        let mut sums = vec![0.0; table.len()];
        for (i, dy) in dy.iter().enumerate() {
            sums[tokens[i / features] as usize * features + i % features] += f64::from(*dy);
        }
        sums
    };
    let name = format!("embedding of {token_count} tokens, {features} features");
    let run = |cpu: &Cpu| {
        let mut y = vec![f32::NAN; token_count * features];
        embedding::forward(cpu, &table, features, &tokens, &mut y);
        let mut dtable = before.clone();
        embedding::backward(cpu, &dy, features, &tokens, &mut dtable);
        [y, dtable]
    };
    on_every_isa(&name, run, |name, [y, dtable]| {
        assert_eq!(widen(&y), want, "{name}");
        let want: Vec<f64> = want_gradient.iter().zip(&before).map(|(d, b)| d + f64::from(*b)).collect();
        // Each of at most `tokens` sums rounds once; no value is beyond 1.
        let bound = token_count as f64 * U * (token_count as f64 + 1.0);
        assert_close(format!("{name}: dtable"), &dtable, &want, |_| bound);
        let unused = (VOCAB - 1) * features..;
        assert_eq!(dtable[unused.clone()], narrow(&before)[unused], "{name}: a token that never came");
    });
}

#[test]
fn rows_come_out_as_they_are_and_their_gradients_add_up() {
    for features in [1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 130] {
        check(5, features);
    }
    for tokens in [1, 63, 64, 65, 200] {
        check(tokens, 3);
        check(tokens, 100);
    }
}

fn look_up(token: u32, threads: usize) {
    let cpu = Cpu::with(Isa::Scalar, threads);
    let mut tokens = vec![0; 200];
    tokens[150] = token;
    embedding::forward(&cpu, &random(VOCAB * 4, 1), 4, &tokens, &mut vec![0.0; 800]);
}

#[test]
#[should_panic(expected = "token 11 is not in a table of 11")]
fn a_token_just_outside_the_table_panics() {
    look_up(11, 1);
}

#[test]
#[should_panic(expected = "token 4294967295 is not in a table of 11")]
fn a_token_far_outside_the_table_panics_through_the_threads() {
    look_up(u32::MAX, 3);
}
