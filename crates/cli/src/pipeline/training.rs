//! From rows of tokens to a model.

use std::fs;

use anyhow::Context;
use elmwood_data::PackedTokens;
use elmwood_model::{OpenElmConfig, Scaling, Weights, counts};
use elmwood_train::{Event, Machine, Muon, Outcome, Settings, train};
use serde_json::{Value, json};

use super::{Corpus, HELD_OUT_ROWS, Pipeline, TOKENIZER, TRAIN_ROWS, damaged, to_value};
use crate::interrupt;
use crate::profile::ProfileTable;
use crate::progress::Unit;
use crate::recipe::{Dtype, Optimizer, Preset, Train};
use crate::stages::{Finished, Stage};

/// Held-out rows that are looked at on the way.
const EVAL_ROWS: usize = 32;

impl Pipeline<'_> {
    pub(super) fn train(&self, corpus: &Corpus) -> anyhow::Result<Finished> {
        let (train_rows, held_out) = (corpus.open_rows(TRAIN_ROWS)?, corpus.open_rows(HELD_OUT_ROWS)?);
        let tokenizer = corpus.load_tokenizer()?;
        let config = self.config(tokenizer.vocab_size(), tokenizer.bos(), tokenizer.eos())?;
        let settings = self.train_settings(&train_rows);
        let stage = Stage {
            name: "train",
            version: 1,
            settings: json!({ "settings": settings, "model": serde_json::from_str::<Value>(&config.to_json())? }),
            inputs: vec![corpus.pack.key.clone()],
            resumable: true,
        };
        self.run.stage(&stage, |folder, progress| {
            let per_step = settings.rows_per_step() * train_rows.seq_len();
            let task = progress.task("train", Some(settings.steps * per_step as u64), Unit::Count("tokens"));
            let machine = Machine {
                recompute: self.recipe.train.recompute,
                profile: self.profile,
                ..Machine::new(self.recipe.train.threads.unwrap_or(0))?
            };
            let mut held_out_loss = String::new();
            let mut observe = |event: Event<'_>| match event {
                Event::Resumed(state, skipped) => {
                    task.resume_from(state.step * per_step as u64);
                    self.session.note(&format!("going on after step {} of {}", state.step, settings.steps));
                    for reason in skipped {
                        self.session.note(&format!("warning: a checkpoint was passed over: {reason}"));
                    }
                }
                Event::Step(metrics) => {
                    if let Some(loss) = metrics.eval_loss {
                        held_out_loss = format!(", held-out {loss:.3}");
                    }
                    task.set(metrics.step * per_step as u64);
                    task.message(format!("loss {:.3}{held_out_loss}", metrics.loss));
                }
                _ => {}
            };
            let outcome = train(
                &settings,
                &config,
                &train_rows,
                &held_out,
                folder,
                &machine,
                &interrupt::requested,
                &mut observe,
            );
            let outcome = match outcome {
                Err(elmwood_train::Error::Interrupted { step }) => {
                    return Err(anyhow::Error::new(interrupt::Interrupted)
                        .context(format!("training was interrupted at step {step}, which was saved")));
                }
                outcome => outcome?,
            };
            task.finish();
            let mut summary = describe(&outcome, &config, &settings);
            if self.profile {
                let profile = ProfileTable::measure(&machine.cpu, settings.dtype.into());
                summary["profile"] = to_value(&profile);
            }
            Ok(summary)
        })
    }

    /// The finished model with its tokenizer, as Hugging Face lays it out.
    pub(super) fn model(&self, corpus: &Corpus, trained: &Finished) -> anyhow::Result<Finished> {
        let inputs = vec![trained.key.clone(), corpus.tokenizer.key.clone()];
        let stage = Stage { name: "model", version: 1, settings: Value::Null, inputs, resumable: false };
        self.run.stage(&stage, |folder, _| {
            let (config, weights) = Weights::load(trained.folder.join("model")).map_err(damaged)?;
            weights.save(folder, &config, elmwood_model::FloatType::F32)?;
            let from = corpus.tokenizer.folder.join(TOKENIZER);
            let bytes = fs::read(&from).with_context(|| format!("cannot read `{}`", from.display()))?;
            elmwood_durable::write_file(folder.join(TOKENIZER), &bytes)?;
            Ok(json!({ "parameters": counts::parameters(&config).total() }))
        })
    }

    fn config(&self, vocab_size: usize, bos: u32, eos: u32) -> anyhow::Result<OpenElmConfig> {
        let model = &self.recipe.model;
        let config = match model.preset {
            Some(Preset::OpenElm270M) => OpenElmConfig::openelm_270m(),
            Some(Preset::OpenElm450M) => OpenElmConfig::openelm_450m(),
            Some(Preset::OpenElm1B) => OpenElmConfig::openelm_1_1b(),
            Some(Preset::OpenElm3B) => OpenElmConfig::openelm_3b(),
            None => OpenElmConfig::new(&Scaling {
                model_dim: model.model_dim,
                num_transformer_layers: model.num_transformer_layers,
                head_dim: model.head_dim,
                num_gqa_groups: model.num_gqa_groups,
                qkv_multipliers: model.qkv_multipliers,
                ffn_multipliers: model.ffn_multipliers,
                ffn_dim_divisor: model.ffn_dim_divisor,
                vocab_size,
                max_context_length: model.max_context_length,
            })?,
        };
        let context = model.max_context_length.max(self.recipe.train.seq_len);
        Ok(config.with_vocabulary(vocab_size, bos, eos)?.with_context(context)?)
    }

    fn train_settings(&self, rows: &PackedTokens) -> Settings {
        let train = &self.recipe.train;
        Settings {
            dtype: match train.dtype {
                Dtype::Bf16 => elmwood_train::Dtype::Bf16,
                Dtype::F32 => elmwood_train::Dtype::F32,
            },
            batch_rows: train.batch_rows,
            grad_accum: train.grad_accum,
            steps: train.steps_for((rows.rows() * rows.seq_len()) as u64),
            lr: train.lr,
            min_lr_ratio: train.min_lr_ratio,
            warmup_steps: train.warmup_steps,
            weight_decay: train.weight_decay,
            beta1: train.beta1,
            beta2: train.beta2,
            eps: train.eps,
            muon: (train.optimizer == Optimizer::Muon).then(|| Muon {
                lr: train.muon_lr.unwrap_or(train.lr),
                momentum: train.muon_momentum.unwrap_or(Train::DEFAULT_MUON_MOMENTUM),
            }),
            grad_clip: train.grad_clip,
            z_loss: train.z_loss,
            eval_every: train.eval_every,
            eval_rows: EVAL_ROWS,
            save_every: train.save_every,
            keep_last: train.keep_last,
            average_last: train.average_last,
            seed: self.recipe.train_seed(),
        }
    }
}

fn describe(outcome: &Outcome, config: &OpenElmConfig, settings: &Settings) -> Value {
    let layers: Vec<Value> = config
        .layers()
        .map(|layer| json!({ "query_heads": layer.query_heads, "kv_heads": layer.kv_heads, "ffn_dim": layer.ffn_dim }))
        .collect();
    json!({
        "parameters": counts::parameters(config).total(),
        "layers": layers,
        "steps": outcome.steps,
        "tokens": outcome.tokens,
        "held_out_nats_per_token": outcome.held_out.mean(),
        "last_nats_per_token": outcome.last.mean(),
        "averaged_nats_per_token": outcome.averaged.map(|loss| loss.mean()),
        "settings": to_value(settings),
    })
}
