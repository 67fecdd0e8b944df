//! The loss, the z-loss, and the gradients of both.

use half::bf16;

use super::{
    EXP2, TINY, U, assert_close, assert_slope, on_every_isa, random_signs, reference, rounded, slope_along,
    slopes, unit, widen,
};
use crate::arena::Arena;
use crate::matmul::Values;
use crate::ops::cross_entropy::{Backward, Head, Loss, NO_TARGET, cross_entropy};
use crate::testing::random;
use crate::{Cpu, Dtype, Element, Isa, Tensor};

struct Case {
    dtype: Dtype,
    tokens: usize,
    vocab: usize,
    features: usize,
    /// Values of `dtype`.
    hidden: Vec<f32>,
    /// f32; a product in bf16 rounds them.
    head: Vec<f32>,
    targets: Vec<u32>,
    z: f32,
}

const GRAD_SCALE: f32 = 0.125;

impl Case {
    fn new<E: Element>([tokens, vocab, features]: [usize; 3], scale: f32, z: f32) -> Self
    where
        for<'a> &'a [E]: Into<Values<'a>>,
    {
        let hidden: Vec<f32> = random(tokens * features, 1).iter().map(|x| scale * x).collect();
        // Every fifth token has no target; ids from all over the vocabulary, the last one among them.
        let target = |i: usize| if i % 5 == 3 { NO_TARGET } else { ((i * i + vocab - 1) % vocab) as u32 };
        Self {
            dtype: E::DTYPE,
            tokens,
            vocab,
            features,
            hidden: super::narrow(&rounded::<E>(&hidden)),
            head: random(vocab * features, 2),
            targets: (0..tokens).map(target).collect(),
            z,
        }
    }

    fn name(&self) -> String {
        let Self { dtype, tokens, vocab, features, z, .. } = self;
        format!("cross_entropy {dtype:?}: {tokens} tokens, {vocab} ids, {features} features, z {z}")
    }

    fn hidden_tensor(&self) -> Tensor {
        let mut tensor = Tensor::zeros(self.tokens, self.features, self.dtype);
        match self.dtype {
            Dtype::F32 => tensor.f32_mut().copy_from_slice(&self.hidden),
            Dtype::Bf16 => tensor.as_mut_slice().copy_from_slice(&rounded::<bf16>(&self.hidden)),
        }
        tensor
    }

    /// The head as the products see it.
    fn head64(&self) -> Vec<f64> {
        match self.dtype {
            Dtype::F32 => widen(&self.head),
            Dtype::Bf16 => widen(&rounded::<bf16>(&self.head)),
        }
    }

    /// Loss of every token, and their sum with the z-loss, scaled as the gradient is.
    fn losses(&self, hidden: &[f64], head: &[f64]) -> (Vec<[f64; 2]>, f64) {
        let loss = |(x, target): (&[f64], &u32)| {
            if *target == NO_TARGET {
                return [0.0; 2];
            }
            reference::cross_entropy(&reference::linear(x, head), *target as usize)
        };
        let losses: Vec<_> = hidden.chunks_exact(self.features).zip(&self.targets).map(loss).collect();
        let total = losses.iter().map(|[loss, square]| loss + f64::from(self.z) * square).sum::<f64>();
        (losses, total * f64::from(GRAD_SCALE))
    }

    fn run(&self, cpu: &Cpu) -> (Loss, [Vec<f32>; 4]) {
        let mut arena = Arena::default();
        let hidden = self.hidden_tensor();
        let mut per_token = vec![f32::NAN; self.tokens];
        let mut loss_with = |backward: Option<Backward<'_>>, per_token: &mut [f32]| {
            let Self { head, vocab, targets, .. } = self;
            let head = Head { values: head, vocab: *vocab, packed: None, packed_back: None };
            cross_entropy(cpu, &mut arena, &hidden, &head, targets, per_token, backward)
        };
        let alone = loss_with(None, &mut per_token);
        let mut dhidden = Tensor::zeros(self.tokens, self.features, self.dtype);
        let mut fresh = vec![f32::NAN; self.head.len()];
        let mut added = random(self.head.len(), 3);
        let mut again = vec![f32::NAN; self.tokens];
        for (dhead, is_fresh) in [(&mut fresh, true), (&mut added, false)] {
            let (z, grad_scale) = (self.z, GRAD_SCALE);
            let backward = Backward { z, grad_scale, dhidden: &mut dhidden, dhead, fresh: is_fresh };
            assert_eq!(loss_with(Some(backward), &mut again), alone, "the way back changes no loss");
            assert_eq!(again, per_token);
        }
        (alone, [per_token, dhidden.to_f32_vec(), fresh, added])
    }

    /// How far each token's loss, and each coordinate of both gradients, may be off.
    fn bounds(&self) -> Bounds {
        let (hidden, head) = (widen(&self.hidden), self.head64());
        let (tokens, vocab, features) = (self.tokens as f64, self.vocab as f64, self.features as f64);
        let (z, scale) = (f64::from(self.z), f64::from(GRAD_SCALE));
        let mut bounds = Bounds {
            loss: vec![0.0; self.tokens],
            square: vec![0.0; self.tokens],
            dhidden: vec![TINY; hidden.len()],
            dhead: random(head.len(), 3).iter().map(|x| U * f64::from(x.abs())).collect(),
        };
        for (token, target) in self.targets.iter().enumerate() {
            if *target == NO_TARGET {
                continue;
            }
            let x = &hidden[token * self.features..][..self.features];
            let logits = reference::linear(x, &head);
            let log_z = reference::log_partition(&logits);
            let magnitudes = head
                .chunks_exact(self.features)
                .map(|w| x.iter().zip(w).map(|(x, w)| (x * w).abs()).sum::<f64>());
            // A logit is a sum of `features` products.
            let logit_error = (features + 2.0) * U * magnitudes.fold(0.0, f64::max);
            // The exponent's argument is shifted by a rounded number; the sum has `vocab` roundings; the
            // logarithm and the sum with the largest logit round again.
            let size = logits.iter().fold(1.0_f64, |a, b| a.max(b.abs())).max(log_z.abs());
            let log_z_error = logit_error + EXP2 + (vocab + 2.0) * U + 5.0 * U * size;
            bounds.loss[token] = log_z_error + logit_error + U * size;
            bounds.square[token] =
                2.0 * log_z.abs() * log_z_error + log_z_error.powi(2) + 2.0 * U * log_z * log_z;
            let p_error = logit_error + log_z_error + EXP2 + 5.0 * U * size;
            let factor = 1.0 + 2.0 * z * log_z;
            for (id, logit) in logits.iter().enumerate() {
                let p = (logit - log_z).exp();
                let is_target = f64::from(u8::from(id == *target as usize));
                let d = scale * (p * factor - is_target);
                let terms =
                    p * (factor.abs() * (p_error + 4.0 * U) + 2.0 * z * log_z_error) + 2.0 * U * is_target;
                // Rounded to the tensor's type before both products.
                let d_error = scale * terms + unit(self.dtype) * d.abs() + TINY;
                for (j, x) in x.iter().enumerate() {
                    let w = head[id * self.features + j].abs();
                    bounds.dhidden[token * self.features + j] += (d_error + (vocab + 2.0) * U * d.abs()) * w;
                    bounds.dhead[id * self.features + j] +=
                        (d_error + (tokens + 3.0) * U * d.abs()) * x.abs();
                }
            }
        }
        bounds
    }
}

struct Bounds {
    loss: Vec<f64>,
    square: Vec<f64>,
    dhidden: Vec<f64>,
    dhead: Vec<f64>,
}

/// Every coordinate of the gradients where `all`, random directions otherwise.
fn check(case: &Case, all: bool) {
    let (hidden, head) = (widen(&case.hidden), case.head64());
    let (losses, _) = case.losses(&hidden, &head);
    let targets = case.targets.iter().filter(|target| **target != NO_TARGET).count();
    let bounds = case.bounds();
    // Third derivatives grow with the cube of the other operand.
    let largest = case.hidden.iter().fold(1.0_f64, |a, b| a.max(f64::from(b.abs())));
    let steps = [1e-4, 1e-4 / largest];
    let of_hidden = |x: &[f64]| case.losses(x, &head).1;
    let of_head = |w: &[f64]| case.losses(&hidden, w).1;
    let directions = [random_signs(hidden.len(), 11), random_signs(head.len(), 12)];
    let (want, want_slopes) = if all {
        ([slopes(&hidden, steps[0], of_hidden), slopes(&head, steps[1], of_head)], [0.0; 2])
    } else {
        let slopes = [
            slope_along(&hidden, &directions[0], steps[0] / 10.0, of_hidden),
            slope_along(&head, &directions[1], steps[1] / 10.0, of_head),
        ];
        ([Vec::new(), Vec::new()], slopes)
    };
    on_every_isa(
        case.name(),
        |cpu| case.run(cpu).1,
        |name, [per_token, dhidden, fresh, added]| {
            let want_losses: Vec<f64> = losses.iter().map(|[loss, _]| *loss).collect();
            assert_close(format!("{name}: loss"), &per_token, &want_losses, |i| bounds.loss[i]);
            for (token, target) in case.targets.iter().enumerate() {
                let row = &dhidden[token * case.features..][..case.features];
                let silent = per_token[token] == 0.0 && row.iter().all(|d| *d == 0.0);
                assert!(*target != NO_TARGET || silent, "{name}: token {token} has no target");
            }
            // The difference of sums over all tokens, over the step.
            let noise = 1e-15 * losses.iter().flatten().sum::<f64>() / steps[1] + 1e-8 * largest;
            let before = widen(&random(head.len(), 3));
            if all {
                // The result is rounded to the tensor's type as well.
                let last = |want: f64| unit(case.dtype) * want.abs() + noise;
                let bound = |i: usize| bounds.dhidden[i] + last(want[0][i]);
                assert_close(format!("{name}: dhidden"), &dhidden, &want[0], bound);
                let bound = |i: usize| bounds.dhead[i] + noise + U * want[1][i].abs();
                assert_close(format!("{name}: fresh dhead"), &fresh, &want[1], bound);
                let want: Vec<f64> = want[1].iter().zip(&before).map(|(d, b)| d + b).collect();
                assert_close(format!("{name}: dhead"), &added, &want, |i| bound(i) + U * want[i].abs());
            } else {
                let last = |i: usize| unit(case.dtype) * f64::from(dhidden[i].abs());
                let bound = |i: usize| bounds.dhidden[i] + last(i);
                assert_slope(format!("{name}: dhidden"), &dhidden, &directions[0], want_slopes[0], bound);
                let bound = |i: usize| bounds.dhead[i];
                assert_slope(format!("{name}: fresh dhead"), &fresh, &directions[1], want_slopes[1], bound);
                let before: f64 = before.iter().zip(&directions[1]).map(|(b, d)| b * d).sum();
                let want = want_slopes[1] + before;
                assert_slope(format!("{name}: dhead"), &added, &directions[1], want, bound);
            }
        },
    );
    for isa in Isa::available() {
        let (loss, [per_token, ..]) = case.run(&Cpu::with(isa, 2));
        assert_eq!(loss.targets, targets);
        // Sums in f64 of what each token has.
        assert!(
            (loss.cross_entropy - widen(&per_token).iter().sum::<f64>()).abs()
                <= 1e-12 * loss.cross_entropy.abs()
        );
        let want: f64 = losses.iter().map(|[_, square]| square).sum();
        let bound = bounds.square.iter().sum::<f64>() + 1e-12 * want;
        assert!(
            (loss.squared_log_z - want).abs() <= bound,
            "{}: {} not {want}",
            case.name(),
            loss.squared_log_z
        );
    }
}

fn check_both(sizes: [usize; 3], scale: f32, z: f32, all: bool) {
    check(&Case::new::<f32>(sizes, scale, z), all);
    check(&Case::new::<bf16>(sizes, scale, z), all);
}

#[test]
fn losses_and_gradients_of_odd_sizes_are_the_equation() {
    let sizes = [
        [1, 1, 1],
        [3, 2, 5],
        [5, 7, 8],
        [4, 8, 1],
        [6, 9, 16],
        [4, 15, 3],
        [9, 16, 17],
        [9, 17, 7],
        [5, 31, 4],
        [12, 33, 15],
        [20, 37, 8],
    ];
    for sizes in sizes {
        check_both(sizes, 2.0, 0.05, true);
    }
}

#[test]
fn the_z_loss_is_weighed_as_asked() {
    for z in [0.0, 1e-4, 1.0] {
        check_both([7, 19, 6], 3.0, z, true);
    }
}

#[test]
fn huge_and_tiny_logits_keep_what_their_rounding_allows() {
    for scale in [1e-30, 1e-10, 30.0, 300.0] {
        check_both([6, 21, 9], scale, 0.01, true);
    }
}

#[test]
fn gradients_over_more_tokens_than_a_chunk_are_complete() {
    for sizes in [[511, 40, 9], [512, 33, 9], [513, 1003, 17], [1100, 130, 24]] {
        check_both(sizes, 2.0, 1e-2, false);
    }
}

#[test]
fn equal_logits_lose_the_logarithm_of_the_vocabulary() {
    for vocab in [1, 2, 7, 16, 100, 1003, 32_000] {
        // Logits of 0, and of −13.5 and 40 in all rows alike.
        for (hidden, head) in [(0.0, 0.7), (-3.0, 4.5), (8.0, 5.0)] {
            for isa in Isa::available() {
                for dtype in [Dtype::F32, Dtype::Bf16] {
                    let case = Case {
                        dtype,
                        tokens: 2,
                        vocab,
                        features: 1,
                        hidden: vec![hidden; 2],
                        head: vec![head; vocab],
                        targets: vec![0, vocab as u32 - 1],
                        z: 0.0,
                    };
                    let (_, [per_token, ..]) = case.run(&Cpu::with(isa, 1));
                    let logit = f64::from(hidden * head).abs();
                    let want = (vocab as f64).ln();
                    // The logarithm of an exact sum is rounded, the largest logit is added and subtracted
                    // again, and the argument of the exponential is that logit less its rounded self.
                    let bound = U * (2.0 * want + 4.0 * logit);
                    assert_close(
                        format!("{vocab} logits of {logit} on {isa}"),
                        &per_token,
                        &[want; 2],
                        |_| bound,
                    );
                }
            }
        }
    }
}

#[test]
fn no_token_at_all_costs_nothing_and_leaves_no_old_gradient() {
    for sizes in [[0, 5, 3], [1, 5, 3]] {
        let mut case = Case::new::<f32>(sizes, 1.0, 0.1);
        case.targets.fill(NO_TARGET);
        on_every_isa(
            case.name(),
            |cpu| {
                let (loss, parts) = case.run(cpu);
                assert_eq!(loss, Loss::default());
                parts
            },
            |name, [_, dhidden, fresh, added]| {
                assert_eq!(dhidden, vec![0.0; dhidden.len()], "{name}");
                assert_eq!(fresh, [0.0; 15], "{name}");
                assert_eq!(added, random(15, 3), "{name}");
            },
        );
    }
}

#[test]
fn what_is_not_finite_never_becomes_a_number() {
    // NaN of several bit patterns: rounding to bf16 must not carry one over into zero or infinity.
    let patterns = [0x7fc0_0000, 0x7f80_0001, 0x7fff_ffff, 0xffff_ffff_u32].map(f32::from_bits);
    for bad in patterns.into_iter().chain([f32::INFINITY, f32::NEG_INFINITY]) {
        for isa in Isa::available() {
            for case in [Case::new::<f32>([5, 21, 9], 1.0, 0.1), Case::new::<bf16>([5, 21, 9], 1.0, 0.1)] {
                let name = format!("{} {isa} {bad} {:x}", case.name(), bad.to_bits());
                let hidden = Case { hidden: [&case.hidden[..44], &[bad]].concat(), ..case };
                let (loss, [per_token, dhidden, dhead, _]) = hidden.run_unequal(&Cpu::with(isa, 1));
                assert!(
                    !loss.cross_entropy.is_finite() && !loss.squared_log_z.is_finite(),
                    "{name}: {loss:?}"
                );
                assert!(!per_token[4].is_finite(), "{name}");
                assert!(dhidden[36..].iter().all(|d| !d.is_finite()), "{name}: {dhidden:?}");
                assert!(dhead.iter().any(|d| !d.is_finite()), "{name}");
                // The other tokens are sound.
                assert!(per_token[..4].iter().all(|loss| loss.is_finite()), "{name}: {per_token:?}");
                assert!(dhidden[..36].iter().all(|d| d.is_finite()), "{name}");
            }
        }
    }
}

impl Case {
    /// As [`Case::run`], where NaN would not be equal to itself.
    fn run_unequal(&self, cpu: &Cpu) -> (Loss, [Vec<f32>; 4]) {
        let mut per_token = vec![0.0; self.tokens];
        let mut dhidden = Tensor::zeros(self.tokens, self.features, self.dtype);
        let mut dhead = vec![0.0; self.head.len()];
        let backward =
            Backward { z: self.z, grad_scale: 1.0, dhidden: &mut dhidden, dhead: &mut dhead, fresh: true };
        let (hidden, Self { head, vocab, targets, .. }) = (self.hidden_tensor(), self);
        let arena = &mut Arena::default();
        let head = Head { values: head, vocab: *vocab, packed: None, packed_back: None };
        let loss = cross_entropy(cpu, arena, &hidden, &head, targets, &mut per_token, Some(backward));
        (loss, [per_token, dhidden.to_f32_vec(), dhead, Vec::new()])
    }
}

#[test]
#[should_panic(expected = "target 21 is not in a vocabulary of 21")]
fn a_target_outside_the_vocabulary_panics() {
    let mut case = Case::new::<f32>([5, 21, 9], 1.0, 0.1);
    case.targets[4] = 21;
    case.run(&Cpu::with(Isa::Scalar, 2));
}
