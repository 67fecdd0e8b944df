//! Products, accumulation and a whole small model through the tape.
//!
//! Gradients are compared with central differences of a model in f64 that is put together from the
//! operators' equations (`ops/tests/reference.rs`).

use std::sync::LazyLock;

use half::bf16;

use super::*;
use crate::ops::tests::{
    U, assert_close, assert_slope, on_every_isa, random_signs, reference, rounded, slope_along, slopes, unit,
    widen,
};
use crate::testing::random;
use crate::{Isa, NO_TARGET};

const DTYPES: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];

fn tensor(dtype: Dtype, rows: usize, cols: usize, values: &[f32]) -> Tensor {
    let mut tensor = Tensor::zeros(rows, cols, dtype);
    by_dtype!(dtype, E => tensor.as_mut_slice::<E>().copy_from_slice(&rounded::<E>(values)));
    tensor
}

/// The values as a tensor of that type holds them.
fn rounded_to(dtype: Dtype, values: &[f32]) -> Vec<f64> {
    by_dtype!(dtype, E => widen(&rounded::<E>(values)))
}

/// `linear` or `linear_add` with `tokens` different tokens, whose embeddings are the residual.
fn check_product(dtype: Dtype, [tokens, inputs, outputs]: [usize; 3], add: bool) {
    let mut parameters = Parameters::new();
    let weight = parameters.add(outputs, inputs, &random(outputs * inputs, 1));
    let residual = parameters.add(tokens, outputs, &random(tokens * outputs, 2));
    let mut batch = Batch::new(tokens);
    batch.push_document(&(0..tokens as u32).collect::<Vec<_>>());
    let (x, dy) = (random(tokens * inputs, 3), random(tokens * outputs, 4));
    // The gradient of a sum is f32; its product rounds it as it does the others.
    let dy_dtype = if add { Dtype::F32 } else { dtype };
    let [x64, dy64] = [&x, &dy].map(|values| rounded_to(dtype, values));
    let weight64 = rounded_to(dtype, parameters.get(weight).f32());
    let addend = if add { widen(parameters.get(residual).f32()) } else { vec![0.0; dy.len()] };
    let product = |x: &[f64], weight: &[f64]| -> Vec<f64> {
        x.chunks_exact(inputs).flat_map(|x| reference::linear(x, weight)).collect()
    };
    let want: Vec<f64> = product(&x64, &weight64).iter().zip(&addend).map(|(y, r)| y + r).collect();
    let weighed = |y: Vec<f64>| y.iter().zip(&dy64).map(|(y, dy)| y * dy).sum::<f64>();
    // Sums of the terms' sizes.
    let sizes = |values: &[f64]| values.iter().map(|x| x.abs()).collect::<Vec<_>>();
    let [x_sizes, weight_sizes, dy_sizes] = [&x64, &weight64, &dy64].map(|values| sizes(values));
    let y_sizes = product(&x_sizes, &weight_sizes);
    let dx_size = |i: usize| -> f64 {
        (0..outputs).map(|o| dy_sizes[i / inputs * outputs + o] * weight_sizes[o * inputs + i % inputs]).sum()
    };
    let dweight_size = |i: usize| -> f64 {
        (0..tokens).map(|t| dy_sizes[t * outputs + i / inputs] * x_sizes[t * inputs + i % inputs]).sum()
    };
    let sum_of = |terms: usize| (terms as f64 + 2.0) * U;

    let name = format!("linear {dtype:?} {tokens}x{inputs}x{outputs} add {add}");
    let run = |cpu: &Cpu| {
        let mut arena = Arena::default();
        let mut gradients = Gradients::new(&parameters);
        let mut tape = Tape::recording(cpu, &mut arena, &parameters, &batch, dtype);
        let residual_var = tape.embedding(residual);
        let x_var = tape.push(tensor(dtype, tokens, inputs, &x));
        let y_var = match add {
            true => tape.linear_add(x_var, weight, residual_var),
            false => tape.linear(x_var, weight),
        };
        let y = tape.value(y_var).to_f32_vec();
        let dy = tensor(dy_dtype, tokens, outputs, &dy);
        // Once by hand, for the gradient of x; twice in all for that of the weight.
        tape.project_back(&dy, x_var, weight, &mut gradients);
        let dx = tape.gradients[x_var.0].take().expect("just computed").to_f32_vec();
        let once = gradients.get(weight).to_f32_vec();
        tape.gradients[y_var.0] = Some(dy);
        if !add {
            tape.gradients[residual_var.0] = Some(Tensor::zeros(tokens, outputs, Dtype::F32));
        }
        tape.backward(&mut gradients);
        [y, dx, once, gradients.get(weight).to_f32_vec(), gradients.get(residual).to_f32_vec()]
    };
    let [dx_direction, dweight_direction] = [random_signs(x.len(), 5), random_signs(weight64.len(), 6)];
    let of_x = |x: &[f64]| weighed(product(x, &weight64));
    let of_weight = |weight: &[f64]| weighed(product(&x64, weight));
    // Linear in each operand: any step is exact.
    let all = tokens * inputs * outputs < 2000;
    let want_gradients = all.then(|| [slopes(&x64, 1.0, of_x), slopes(&weight64, 1.0, of_weight)]);
    let want_slopes = [
        slope_along(&x64, &dx_direction, 1.0, of_x),
        slope_along(&weight64, &dweight_direction, 1.0, of_weight),
    ];
    on_every_isa(&name, run, |name, [y, dx, once, twice, dresidual]| {
        let last = if add { U } else { unit(dtype) };
        let bound = |i: usize| y_sizes[i] * sum_of(inputs) + (addend[i].abs() + want[i].abs()) * last;
        assert_close(format!("{name}: y"), &y, &want, bound);
        // Rounded to the tape's type at the end.
        let dx_bound = |i: usize| dx_size(i) * (sum_of(outputs) + unit(dtype));
        let dweight_bound = |i: usize| dweight_size(i) * sum_of(tokens);
        if let Some([want_dx, want_dweight]) = &want_gradients {
            assert_close(format!("{name}: dx"), &dx, want_dx, |i| {
                dx_size(i) * sum_of(outputs) + unit(dtype) * want_dx[i].abs()
            });
            assert_close(format!("{name}: dweight"), &once, want_dweight, dweight_bound);
        }
        assert_slope(format!("{name}: dx"), &dx, &dx_direction, want_slopes[0], dx_bound);
        assert_slope(format!("{name}: dweight"), &once, &dweight_direction, want_slopes[1], dweight_bound);
        let doubled: Vec<f64> = once.iter().map(|d| 2.0 * f64::from(*d)).collect();
        assert_close(format!("{name}: dweight twice"), &twice, &doubled, |i| 3.0 * dweight_bound(i));
        let want = if add { dy.clone() } else { vec![0.0; dy.len()] };
        assert_eq!(dresidual, want, "{name}: the residual's gradient is that of the sum");
    });
}

#[test]
fn products_of_odd_sizes_and_their_gradients_are_the_equation() {
    let sizes = [
        [1, 1, 1],
        [2, 7, 5],
        [5, 9, 17],
        [3, 16, 33],
        [7, 31, 8],
        [65, 4, 3],
        [130, 33, 100],
        [70, 200, 47],
    ];
    for sizes in sizes {
        for dtype in DTYPES {
            for add in [false, true] {
                check_product(dtype, sizes, add);
            }
        }
    }
}

const VOCAB: usize = 37;
const FEATURES: usize = 24;
const EPS: f32 = 1e-6;
const BASE: f64 = 10_000.0;
const Z: f32 = 1e-2;
const MAX_SEQ: usize = 80;

struct Layer {
    attn_norm: ParameterId,
    qkv: ParameterId,
    attention: AttentionLayer,
    out: ParameterId,
    ffn_norm: ParameterId,
    up: ParameterId,
    down: ParameterId,
}

/// Two layers of different widths with all operators.
struct Model {
    parameters: Parameters,
    embedding: ParameterId,
    layers: Vec<Layer>,
    norm: ParameterId,
    head: ParameterId,
}

impl Model {
    fn new(tied: bool) -> Self {
        let mut parameters = Parameters::new();
        let mut seed = 100;
        let mut add = |rows: usize, cols: usize| {
            seed += 1;
            let values = random(rows * cols, seed).into_iter();
            // Norm weights about 1; matrices so that their products keep the size of what enters, and of
            // values that bf16 has as well, so that a tape of either type computes the same function.
            let values: Vec<f32> = match rows {
                1 => values.map(|x| 1.0 + 0.5 * x).collect(),
                _ => values.map(|x| bf16::from_f32(x * (3.0 / cols as f32).sqrt()).to_f32()).collect(),
            };
            parameters.add(rows, cols, &values)
        };
        let embedding = add(VOCAB, FEATURES);
        let shapes = [(Heads { query: 2, kv: 1, dim: 8 }, 19), (Heads { query: 4, kv: 2, dim: 10 }, 33)];
        let layers = shapes.map(|(heads, hidden)| Layer {
            attn_norm: add(1, FEATURES),
            qkv: add(heads.qkv_cols(), FEATURES),
            attention: AttentionLayer {
                heads,
                q_norm: add(1, heads.dim),
                k_norm: add(1, heads.dim),
                eps: EPS,
                rope: Arc::new(RopeTable::new(MAX_SEQ, heads.dim, BASE)),
            },
            out: add(FEATURES, heads.query * heads.dim),
            ffn_norm: add(1, FEATURES),
            up: add(2 * hidden, FEATURES),
            down: add(FEATURES, hidden),
        });
        let norm = add(1, FEATURES);
        let head = if tied { embedding } else { add(VOCAB, FEATURES) };
        Self { parameters, embedding, layers: layers.into(), norm, head }
    }

    fn forward(&self, tape: &mut Tape<'_>) -> Var {
        let mut x = tape.embedding(self.embedding);
        for layer in &self.layers {
            let normed = tape.rms_norm(x, layer.attn_norm, EPS);
            let qkv = tape.linear(normed, layer.qkv);
            let heads = tape.attention(qkv, &layer.attention);
            x = tape.linear_add(heads, layer.out, x);
            let normed = tape.rms_norm(x, layer.ffn_norm, EPS);
            let up = tape.linear(normed, layer.up);
            let hidden = tape.swiglu(up);
            x = tape.linear_add(hidden, layer.down, x);
            tape.keep_only(x);
        }
        tape.rms_norm(x, self.norm, EPS)
    }

    /// Loss of the batch; adds its gradient, scaled by `grad_scale`.
    fn train(
        &self,
        cpu: &Cpu,
        dtype: Dtype,
        batch: &Batch,
        grad_scale: f32,
        gradients: &mut Gradients,
    ) -> Loss {
        let mut arena = Arena::default();
        let mut per_token = vec![f32::NAN; batch.tokens.len()];
        let mut tape = Tape::recording(cpu, &mut arena, &self.parameters, batch, dtype);
        let hidden = self.forward(&mut tape);
        let gradient = LossGradient { gradients, z: Z, grad_scale };
        let loss = tape.cross_entropy(hidden, self.head, &mut per_token, Some(gradient));
        tape.backward(gradients);
        loss
    }

    /// All gradients of some batches, one after the other.
    fn gradients_of(&self, cpu: &Cpu, dtype: Dtype, batches: &[&Batch]) -> Vec<Vec<f32>> {
        let mut gradients = Gradients::new(&self.parameters);
        for batch in batches {
            self.train(cpu, dtype, batch, 1.0, &mut gradients);
        }
        self.all(&mut gradients)
    }

    fn ids(&self) -> impl Iterator<Item = ParameterId> + use<'_> {
        (0..self.parameters.iter().len()).map(|index| self.parameters.id(index))
    }

    fn all(&self, gradients: &mut Gradients) -> Vec<Vec<f32>> {
        self.ids().map(|id| gradients.get(id).to_f32_vec()).collect()
    }

    /// −log p of every token and the whole loss in f64, for these values of the parameters.
    fn reference(&self, parameters: &[Vec<f64>], batch: &Batch) -> (Vec<f64>, f64) {
        let get = |id: ParameterId| &parameters[id.index()][..];
        let eps = f64::from(EPS);
        let embed = |token: &u32| get(self.embedding)[*token as usize * FEATURES..][..FEATURES].to_vec();
        let mut x: Vec<Vec<f64>> = batch.tokens.iter().map(embed).collect();
        for layer in &self.layers {
            let AttentionLayer { heads, q_norm, k_norm, .. } = layer.attention;
            let dim = heads.dim;
            let ready = |(x, position): (&Vec<f64>, &u32)| {
                let mut qkv =
                    reference::linear(&reference::rms_norm(x, get(layer.attn_norm), eps), get(layer.qkv));
                let turns =
                    reference::turns(dim, |pair| reference::rounded_angle(*position, pair, dim, BASE));
                for head in 0..heads.query + heads.kv {
                    let weight = get(if head < heads.query { q_norm } else { k_norm });
                    let values = &mut qkv[head * dim..(head + 1) * dim];
                    let normed = reference::rms_norm(values, weight, eps);
                    values.copy_from_slice(&reference::rotate(&normed, &turns));
                }
                qkv
            };
            let qkv: Vec<Vec<f64>> = x.iter().zip(&batch.positions).map(ready).collect();
            for (token, x) in x.iter_mut().enumerate() {
                let first = token / batch.seq * batch.seq + batch.starts[token] as usize;
                let attend = |head: usize| {
                    let column = |head: usize| {
                        qkv[first..=token].iter().map(|row| &row[head * dim..][..dim]).collect::<Vec<_>>()
                    };
                    let kv_head = heads.query + head / (heads.query / heads.kv);
                    let query = &qkv[token][head * dim..][..dim];
                    reference::attention(query, &column(kv_head), &column(kv_head + heads.kv))
                };
                let attended: Vec<f64> = (0..heads.query).flat_map(attend).collect();
                add(x, &reference::linear(&attended, get(layer.out)));
                let up = reference::linear(&reference::rms_norm(x, get(layer.ffn_norm), eps), get(layer.up));
                add(x, &reference::linear(&reference::swiglu(&up), get(layer.down)));
            }
        }
        let loss = |(x, target): (&Vec<f64>, &u32)| {
            if *target == NO_TARGET {
                return [0.0; 2];
            }
            let logits = reference::linear(&reference::rms_norm(x, get(self.norm), eps), get(self.head));
            reference::cross_entropy(&logits, *target as usize)
        };
        let losses: Vec<[f64; 2]> = x.iter().zip(&batch.targets).map(loss).collect();
        let whole = losses.iter().map(|[loss, square]| loss + f64::from(Z) * square).sum();
        (losses.iter().map(|[loss, _]| *loss).collect(), whole)
    }
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Two rows of documents of several lengths, with gaps; more tokens than one partial sum takes.
fn batch(seed: u64) -> Batch {
    let mut batch = Batch::new(MAX_SEQ);
    let tokens: Vec<u32> = random(2 * MAX_SEQ, seed).iter().map(|x| ((x + 1.0) * 18.4) as u32).collect();
    let mut rows = tokens.chunks_exact(MAX_SEQ).map(|row| row.iter().copied());
    batch.push_row(rows.next().expect("two rows"), [0..3, 3..4, 4..40, 42..79].into_iter());
    batch.push_row(rows.next().expect("two rows"), std::iter::once(1..MAX_SEQ));
    batch
}

fn norm(x: &[f32]) -> f64 {
    widen(x).iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// How far a value that has gone forth and back through the model may be off, relative to the size of such
/// values.
///
/// About thirty operators round to bf16, each twice or so on a value's way; roundings are of independent
/// sign, so sixty of them, each 0.6 units in the mean, come to some five units. Twelve leave room for the
/// largest of many. In f32 the sums round as well, up to 160 terms long.
fn model_error(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 => 100.0 * U,
        Dtype::Bf16 => 12.0 * unit(dtype),
    }
}

#[test]
fn losses_of_a_model_are_those_of_its_equations() {
    let (model, batch) = (Model::new(false), batch(1));
    let parameters: Vec<Vec<f64>> = model.parameters.iter().map(|x| widen(x.f32())).collect();
    let (want, _) = model.reference(&parameters, &batch);
    for dtype in DTYPES {
        let run = |cpu: &Cpu| {
            let mut arena = Arena::default();
            let mut per_token = vec![f32::NAN; want.len()];
            let mut tape = Tape::forgetting(cpu, &mut arena, &model.parameters, &batch, dtype);
            let hidden = model.forward(&mut tape);
            let loss = tape.cross_entropy(hidden, model.head, &mut per_token, None);
            let mut gradients = Gradients::new(&model.parameters);
            let recorded = model.train(cpu, dtype, &batch, 1.0, &mut gradients);
            assert_eq!(loss, recorded, "what is recorded is what is computed");
            assert_eq!(loss.targets, batch.target_count());
            [per_token]
        };
        on_every_isa(format!("losses {dtype:?}"), run, |name, [per_token]| {
            // Losses are about four, and have gone forth only.
            assert_close(name, &per_token, &want, |_| 2.0 * model_error(dtype));
        });
    }
}

#[test]
fn the_gradient_of_every_parameter_is_the_slope_of_the_loss() {
    for tied in [false, true] {
        let (model, batch) = (Model::new(tied), batch(2));
        let parameters: Vec<Vec<f64>> = model.parameters.iter().map(|x| widen(x.f32())).collect();
        let directions: Vec<[Vec<f64>; 2]> =
            parameters.iter().map(|x| [21, 22].map(|seed| random_signs(x.len(), seed))).collect();
        let slope_of = |index: usize, direction: &[f64]| {
            slope_along(&parameters[index], direction, 1e-6, |values| {
                let mut parameters = parameters.clone();
                parameters[index] = values.to_vec();
                model.reference(&parameters, &batch).1
            })
        };
        let slopes: Vec<[f64; 2]> =
            directions.iter().enumerate().map(|(i, d)| d.each_ref().map(|d| slope_of(i, d))).collect();
        for dtype in DTYPES {
            let run = |cpu: &Cpu| [model.gradients_of(cpu, dtype, &[&batch]).concat()];
            on_every_isa(format!("gradients {dtype:?}, tied {tied}"), run, |name, [gradients]| {
                let mut rest = &gradients[..];
                for (i, parameter) in parameters.iter().enumerate() {
                    let gradient;
                    (gradient, rest) = rest.split_at(parameter.len());
                    // Along signs, slopes are as large as the gradient is long.
                    let bound = model_error(dtype) * norm(gradient);
                    for (direction, want) in directions[i].iter().zip(slopes[i]) {
                        let got: f64 = gradient.iter().zip(direction).map(|(g, d)| f64::from(*g) * d).sum();
                        let error = (got - want).abs();
                        assert!(
                            error <= bound,
                            "{name}: parameter {i}: {got:e}, not {want:e}: over {bound:.1e}"
                        );
                    }
                }
            });
        }
    }
}

#[test]
fn a_tied_embedding_gets_the_gradients_of_both_its_uses() {
    let tied = Model::new(true);
    // The same model with two parameters of the same values: each gets its own share.
    let mut apart = Model::new(false);
    let table = tied.parameters.get(tied.embedding).to_f32_vec();
    apart.parameters.get_mut(apart.head).f32_mut().copy_from_slice(&table);
    let batch = batch(3);
    for dtype in DTYPES {
        for isa in Isa::available() {
            let cpu = Cpu::with(isa, 2);
            let gradient = tied.gradients_of(&cpu, dtype, &[&batch]);
            let shares = apart.gradients_of(&cpu, dtype, &[&batch]);
            let [rows, head] = [&shares[apart.embedding.index()], &shares[apart.head.index()]];
            assert!(norm(rows) > 0.1 * norm(head) && norm(head) > 0.1 * norm(rows), "both count");
            let want: Vec<f64> = rows.iter().zip(head).map(|(a, b)| f64::from(*a) + f64::from(*b)).collect();
            // The same summands in another order, in f32; a token comes a few times.
            let largest = want.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
            let name = format!("{isa} {dtype:?}");
            assert_close(&name, &gradient[tied.embedding.index()], &want, |_| 20.0 * U * largest);
            for (i, gradient) in gradient.iter().enumerate().skip(1) {
                assert_eq!(gradient, &shares[i], "{name}: parameter {i} is as before");
            }
        }
    }
}

#[test]
fn gradients_of_batches_add_up_until_they_are_cleared() {
    let model = Model::new(true);
    let batches = [batch(4), batch(5)];
    let mut both = batches[0].clone();
    for (all, part) in [
        (&mut both.tokens, &batches[1].tokens),
        (&mut both.positions, &batches[1].positions),
        (&mut both.starts, &batches[1].starts),
        (&mut both.targets, &batches[1].targets),
    ] {
        all.extend(part);
    }
    both.rows = 4;
    for dtype in DTYPES {
        for isa in Isa::available() {
            let cpu = Cpu::with(isa, 2);
            let [first, second] = batches.each_ref().map(|batch| model.gradients_of(&cpu, dtype, &[batch]));
            let summed = model.gradients_of(&cpu, dtype, &[&batches[0], &batches[1]]);
            let at_once = model.gradients_of(&cpu, dtype, &[&both]);
            for i in 0..first.len() {
                let want: Vec<f64> =
                    first[i].iter().zip(&second[i]).map(|(a, b)| f64::from(*a) + f64::from(*b)).collect();
                // Sums of the same terms in f32, in another order; the largest gradients are largest on the way.
                let bound = 40.0
                    * U
                    * first[i].iter().chain(&second[i]).fold(0.0, |a: f64, b| a.max(f64::from(b.abs())));
                assert_close(format!("{isa} {dtype:?}: parameter {i} in turn"), &summed[i], &want, |_| bound);
                assert_close(format!("{isa} {dtype:?}: parameter {i} at once"), &at_once[i], &want, |_| {
                    bound
                });
            }

            let mut gradients = Gradients::new(&model.parameters);
            model.train(&cpu, dtype, &batches[0], 1.0, &mut gradients);
            gradients.clear();
            model.train(&cpu, dtype, &batches[1], 1.0, &mut gradients);
            assert!(model.all(&mut gradients) == second, "{isa} {dtype:?}: nothing of the first is left");
            gradients.clear();
            assert!(model.all(&mut gradients).concat().iter().all(|g| *g == 0.0), "nothing arrived: zeros");
            model.train(&cpu, dtype, &batches[0], 1.0, &mut gradients);
            assert!(model.all(&mut gradients) == first, "{isa} {dtype:?}: added to zeros");
        }
    }
}

#[test]
fn the_scale_of_the_gradient_scales_all_gradients() {
    let (model, batch) = (Model::new(false), batch(6));
    for dtype in DTYPES {
        let cpu = Cpu::with(*Isa::available().last().expect("one at least"), 2);
        let mut gradients = Gradients::new(&model.parameters);
        model.train(&cpu, dtype, &batch, 0.25, &mut gradients);
        let scaled: Vec<f32> = model.all(&mut gradients).concat().iter().map(|g| 4.0 * g).collect();
        // A power of two scales exactly, through every rounding.
        assert!(scaled == model.gradients_of(&cpu, dtype, &[&batch]).concat(), "{dtype:?}");
    }
}

#[test]
fn a_batch_without_rows_has_no_loss_and_no_gradient() {
    let (model, empty) = (Model::new(true), Batch::new(MAX_SEQ));
    for dtype in DTYPES {
        for isa in Isa::available() {
            let cpu = Cpu::with(isa, 2);
            let mut gradients = Gradients::new(&model.parameters);
            model.train(&cpu, dtype, &batch(7), 1.0, &mut gradients);
            gradients.clear();
            let loss = model.train(&cpu, dtype, &empty, 1.0, &mut gradients);
            assert_eq!(loss, Loss::default());
            assert!(model.all(&mut gradients).concat().iter().all(|g| *g == 0.0), "{isa} {dtype:?}");
        }
    }
}

#[test]
fn logits_are_products_with_the_head() {
    let (model, batch) = (Model::new(false), batch(8));
    for dtype in DTYPES {
        let run = |cpu: &Cpu| {
            let mut arena = Arena::default();
            let mut tape = Tape::forgetting(cpu, &mut arena, &model.parameters, &batch, dtype);
            let hidden = model.forward(&mut tape);
            let mut logits = vec![f32::NAN; VOCAB];
            tape.logits(hidden, 49, model.head, &mut logits);
            [tape.value(hidden).to_f32_vec(), logits]
        };
        on_every_isa(format!("logits {dtype:?}"), run, |name, [hidden, logits]| {
            let row = widen(&hidden[49 * FEATURES..50 * FEATURES]);
            let head = rounded_to(dtype, model.parameters.get(model.head).f32());
            let sizes = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
            let sums = reference::linear(&sizes(&row), &sizes(&head));
            let bound = |i: usize| sums[i] * (FEATURES as f64 + 2.0) * U;
            assert_close(name, &logits, &reference::linear(&row, &head), bound);
        });
    }
}

#[test]
fn a_parameter_that_is_not_finite_makes_the_loss_so() {
    static BATCH: LazyLock<Batch> = LazyLock::new(|| {
        let mut all = Batch::new(24);
        all.push_document(&(0..24).collect::<Vec<u32>>());
        all
    });
    let mut model = Model::new(false);
    let ids: Vec<ParameterId> = model.ids().collect();
    let quiet_signalling_and_full = [0x7fc0_0000, 0x7f80_0001, 0xffff_ffff].map(f32::from_bits);
    for isa in Isa::available() {
        let cpu = Cpu::with(isa, 1);
        for dtype in DTYPES {
            for id in &ids {
                for bad in quiet_signalling_and_full.into_iter().chain([f32::INFINITY, f32::NEG_INFINITY]) {
                    // The second coordinate of the third row, or of a vector.
                    let tensor = model.parameters.get_mut(*id);
                    let at = if tensor.rows() > 2 { 2 * tensor.cols() + 1 } else { 1 };
                    let before = std::mem::replace(&mut tensor.f32_mut()[at], bad);
                    let mut gradients = Gradients::new(&model.parameters);
                    let loss = model.train(&cpu, dtype, &BATCH, 1.0, &mut gradients);
                    let name = format!("{isa} {dtype:?}: {bad} in parameter {}", id.index());
                    assert!(!loss.cross_entropy.is_finite(), "{name}: {loss:?}");
                    assert!(!gradients.norm(&cpu).is_finite(), "{name}: the gradient");
                    model.parameters.get_mut(*id).f32_mut()[at] = before;
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "token 37 is not in a table of 37")]
fn a_token_outside_the_table_panics() {
    let model = Model::new(false);
    let cpu = Cpu::with(Isa::Scalar, 2);
    let mut batch = Batch::new(80);
    batch.push_document(&[37; 80]);
    model.gradients_of(&cpu, Dtype::F32, &[&batch]);
}

#[test]
fn memory_is_asked_for_once() {
    let model = Model::new(true);
    let batch = batch(9);
    let cpu = Cpu::with(Isa::Scalar, 1);
    for dtype in DTYPES {
        let mut arena = Arena::default();
        let mut gradients = Gradients::new(&model.parameters);
        let mut counts = Vec::new();
        for _ in 0..4 {
            let mut per_token = vec![0.0; batch.tokens.len()];
            let mut tape = Tape::recording(&cpu, &mut arena, &model.parameters, &batch, dtype);
            let hidden = model.forward(&mut tape);
            let gradient = LossGradient { gradients: &mut gradients, z: Z, grad_scale: 1.0 };
            tape.cross_entropy(hidden, model.head, &mut per_token, Some(gradient));
            tape.backward(&mut gradients);
            // A tape that is dropped half-way gives all back as well.
            let mut tape = Tape::recording(&cpu, &mut arena, &model.parameters, &batch, dtype);
            model.forward(&mut tape);
            drop(tape);
            counts.push(arena.allocations());
        }
        assert_eq!(counts[1..], [counts[1]; 3], "{dtype:?}");
    }
}

#[test]
fn gradients_lie_where_activations_were() {
    let model = Model::new(true);
    let batch = batch(10);
    let cpu = Cpu::with(Isa::Scalar, 1);
    for dtype in DTYPES {
        let mut gradients = Gradients::new(&model.parameters);
        let mut bytes = || {
            let mut arena = Arena::default();
            let mut per_token = vec![0.0; batch.tokens.len()];
            let mut tape = Tape::recording(&cpu, &mut arena, &model.parameters, &batch, dtype);
            let hidden = model.forward(&mut tape);
            let gradient = LossGradient { gradients: &mut gradients, z: Z, grad_scale: 1.0 };
            tape.cross_entropy(hidden, model.head, &mut per_token, Some(gradient));
            tape.backward(&mut gradients);
            arena.bytes()
        };
        // The second time they are there already, in the memory of the first.
        let (with, without) = (bytes(), bytes());
        let of_gradients: usize = model.parameters.iter().map(|x| 4 * x.rows() * x.cols()).sum();
        let taken = with - without;
        assert!(2 * taken < of_gradients, "{dtype:?}: {taken} bytes for {of_gradients} of gradients");
    }
}
