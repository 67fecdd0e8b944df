//! Types of tokens, as `tokenizer.ggml.token_type` of GGUF files numbers them.

/// Text like any other.
pub(crate) const NORMAL: i32 = 1;
/// Stands for what cannot be encoded.
pub(crate) const UNKNOWN: i32 = 2;
/// Stands for no text.
pub(crate) const CONTROL: i32 = 3;
/// Added to a vocabulary after it was learned.
pub(crate) const USER_DEFINED: i32 = 4;
/// Never occurs.
pub(crate) const UNUSED: i32 = 5;
/// One byte, written `<0x0A>`.
pub(crate) const BYTE: i32 = 6;
