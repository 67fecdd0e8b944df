//! What the finished model is worth: bits per byte beside counting and `gzip`, and what it writes.

use std::ops::ControlFlow;

use elmwood_data::{DocumentReader, HELD_OUT, TRAIN};
use elmwood_engine::{Arena, Cpu};
use elmwood_eval::{Trigram, gzip_bits_per_byte};
use elmwood_infer::{Finish, Generator, Request, Sampler, Sampling, Step};
use elmwood_model::{LocalModel, Model, Tokenizer, Weights};
use elmwood_train::evaluate;
use serde::{Deserialize, Serialize};

use super::{Corpus, HELD_OUT_ROWS, Pipeline, damaged, must_be_whole, to_value};
use crate::interrupt;
use crate::progress::Unit;
use crate::recipe::Dtype;
use crate::stages::{Finished, Stage};

/// The model and two baselines on the held-out text, and samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Bytes of held-out text that were judged.
    pub text_bytes: u64,
    /// Tokens they are, an end token for each document included.
    pub tokens: u64,
    /// Bits per byte of the model.
    pub model: f64,
    /// Bits per byte of an interpolated modified Kneser-Ney trigram model of the same tokens.
    pub trigram: f64,
    /// Bits per byte of `gzip -9` over the held-out text alone.
    pub gzip: f64,
    /// What the model writes.
    pub samples: Vec<Sample>,
    /// Tokens per second of writing.
    pub tokens_per_sec: f64,
}

/// A continuation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What was continued.
    pub prompt: String,
    /// How freely: 0 takes the likeliest token.
    pub temperature: f64,
    /// What the model wrote.
    pub text: String,
}

impl Pipeline<'_> {
    pub(super) fn judge(&self, corpus: &Corpus, model: &Finished) -> anyhow::Result<Finished> {
        let stage = Stage {
            name: "judge",
            version: 1,
            settings: to_value((&self.recipe.judge, self.recipe.seed, self.recipe.train.dtype)),
            inputs: vec![model.key.clone(), corpus.pack.key.clone()],
            resumable: false,
        };
        self.run.stage(&stage, |folder, progress| {
            let judgement = self.judgement(corpus, model, progress)?;
            elmwood_durable::write_file(
                folder.join("judgement.json"),
                &serde_json::to_vec_pretty(&judgement)?,
            )?;
            Ok(to_value(judgement))
        })
    }

    fn judgement(
        &self,
        corpus: &Corpus,
        model: &Finished,
        progress: &crate::progress::Progress,
    ) -> anyhow::Result<Judgement> {
        let tokenizer = corpus.load_tokenizer()?;
        let model_folder = &model.folder;
        let (config, weights) = Weights::load(model_folder).map_err(damaged)?;
        let model = Model::new(config, &weights);
        let cpu = Cpu::new(self.recipe.train.threads.unwrap_or(0))?;
        let dtype = match self.recipe.train.dtype {
            Dtype::Bf16 => elmwood_engine::Dtype::Bf16,
            Dtype::F32 => elmwood_engine::Dtype::F32,
        };
        let rows = corpus.open_rows(HELD_OUT_ROWS)?;
        let loss = evaluate(&model, &cpu, &mut Arena::default(), dtype, &rows, usize::MAX);
        let text_bytes = rows.stats().text_bytes;

        let documents = |name| DocumentReader::open(corpus.curate.folder.join(name));
        let ids = |text: &str| {
            let mut ids = tokenizer.encode(text);
            ids.push(tokenizer.eos());
            ids
        };
        let mut train_ids = Vec::new();
        let mut reader = documents(TRAIN)?;
        for document in reader.by_ref() {
            train_ids.push(ids(&document?.text));
        }
        must_be_whole(reader.quarantine())?;
        let trigram = Trigram::train(train_ids.iter().map(Vec::as_slice), tokenizer.vocab_size());
        let (mut trigram_bits, mut text, mut openings) = (0.0, Vec::new(), Vec::new());
        let mut reader = documents(HELD_OUT)?;
        for document in reader.by_ref() {
            let document = document?;
            trigram_bits += trigram.bits(&ids(&document.text));
            text.extend_from_slice(document.text.as_bytes());
            openings.push(opening(&document.text));
        }
        must_be_whole(reader.quarantine())?;

        let prompts = match &self.recipe.judge.prompts[..] {
            [] => openings.into_iter().filter(|opening| !opening.is_empty()).take(3).collect(),
            prompts => prompts.to_vec(),
        };
        let local = LocalModel::load(model_folder, &cpu, dtype).map_err(damaged)?;
        let (samples, tokens_per_sec) = self.samples(&local, &cpu, dtype, &tokenizer, &prompts, progress)?;
        Ok(Judgement {
            text_bytes,
            tokens: loss.targets,
            model: loss.bits_per_byte(text_bytes),
            trigram: trigram_bits / text_bytes.max(1) as f64,
            gzip: gzip_bits_per_byte(&text),
            samples,
            tokens_per_sec,
        })
    }

    fn samples(
        &self,
        model: &LocalModel,
        cpu: &Cpu,
        dtype: elmwood_engine::Dtype,
        tokenizer: &Tokenizer,
        prompts: &[String],
        progress: &crate::progress::Progress,
    ) -> anyhow::Result<(Vec<Sample>, f64)> {
        let judge = &self.recipe.judge;
        let wanted = (prompts.len() * judge.temperatures.len() * judge.sample_tokens) as u64;
        let task = progress.task("sample", Some(wanted), Unit::Count("tokens"));
        let mut generator = Generator::new(model, cpu, usize::MAX, dtype.into());
        let began = std::time::Instant::now();
        let (mut samples, mut written) = (Vec::new(), 0);
        for &temperature in &judge.temperatures {
            for prompt in prompts {
                let mut ids = vec![tokenizer.bos()];
                ids.extend(tokenizer.encode(prompt));
                let sampling = Sampling {
                    temperature: temperature as f32,
                    seed: self.recipe.seed,
                    ..Sampling::default()
                };
                let mut sampler = Sampler::new(sampling)?;
                let on_step = |step| {
                    if matches!(step, Step::Token(_)) {
                        task.inc(1);
                    }
                    if interrupt::requested() {
                        return ControlFlow::Break(Finish::Interrupted);
                    }
                    ControlFlow::Continue(())
                };
                let ends = &[tokenizer.eos()];
                let request = Request { ends, ..Request::new(&ids, judge.sample_tokens, &mut sampler) };
                let text = generator.generate(request, on_step)?.tokens;
                interrupt::check()?;
                written += text.len();
                let text = tokenizer.decode(&text);
                samples.push(Sample { prompt: prompt.clone(), temperature, text });
            }
        }
        task.finish();
        Ok((samples, written as f64 / began.elapsed().as_secs_f64().max(1e-9)))
    }
}

/// The first words of a text, as a prompt.
fn opening(text: &str) -> String {
    text.split_whitespace().take(8).collect::<Vec<_>>().join(" ")
}
