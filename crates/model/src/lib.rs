//! OpenELM as data: what a model is before anything is computed with it.
//!
//! OpenELM is a family of decoder-only language models whose one idea is layer-wise scaling: layers near
//! the input are narrow, layers near the output wide. This crate holds
//!
//! - [`OpenElmConfig`], Apple's `config.json`, checked, with the formulas in [`layer_scaling`];
//! - [`counts`]: parameters, arithmetic and cache memory of a configuration;
//! - [`layout`]: the name and shape of each tensor in Apple's files;
//! - [`SafetensorsFile`] and [`SafetensorsWriter`]: the file format of weights, read without trust;
//! - [`GgufFile`] and [`GgufWriter`]: the same for GGUF files, with metadata and quantised weights;
//! - [`SourceModel`]: a model of any of these forms, to be written as GGUF, quantised or not;
//! - [`Weights`]: all tensors in f32, fresh, loaded or to be saved;
//! - [`Tokenizer`]: text to token ids and back, trained on any text or taken from a model;
//! - [`ChatTemplate`]: a chat as the text that a model expects.
//!
//! Every file is written through `elmwood-durable`, whole or not at all.

mod architecture;
mod chat_template;
mod config;
mod convert;
pub mod counts;
mod error;
mod fields;
pub mod generation_config;
mod gguf;
mod json_object;
pub mod layer_scaling;
mod layout;
mod llama2_c;
mod local;
mod mapped_file;
mod model;
pub mod random;
mod safetensors_file;
mod tokenizer;
mod weights;

pub use architecture::{
    Activation, Architecture, Biases, Family, LayerPlan, NormKind, Rope, RopeScaling, Visibility,
};
pub use chat_template::{
    ChatMessage, ChatTemplate, ChatTemplateFault, FUEL, MAX_OUTPUT_BYTES, MAX_TEMPLATE_BYTES, PLAIN_TEMPLATE,
};
pub use config::{CONFIG_FILE, LayerShape, OpenElmConfig, RMS_NORM_EPS, Scaling};
pub use convert::{Converted, Quantization, SourceModel};
pub use error::{Error, TensorProblem};
pub use gguf::{
    ALIGNMENT_KEY, FromGguf, GgmlType, GgufArray, GgufFault, GgufFile, GgufMetadata, GgufTensor,
    GgufTensorSpec, GgufValue, GgufWriter, MAX_GGUF_ARRAY, MAX_GGUF_DIMENSIONS, MAX_GGUF_KEYS,
    MAX_GGUF_NESTING, MAX_GGUF_STRING_BYTES, MAX_GGUF_TENSORS, is_gguf,
};
pub use layout::{TensorRole, TensorSpec, layout};
pub use local::{LocalModel, Sequence};
pub use model::Model;
pub use safetensors_file::{
    Dtype, Fault, FloatType, INDEX_FILE, MAX_DIMENSIONS, MAX_HEADER_BYTES, MAX_TENSORS, SafetensorsFile,
    SafetensorsFolder, SafetensorsWriter, TensorView, WEIGHTS_FILE,
};
pub use tokenizer::{DecodeStream, Progress, Special, TOKENIZER_FILE, Tokenizer};
pub use weights::{NamedTensor, Weights};
