//! Pre-tokenizers by the name that a GGUF file gives them in `tokenizer.ggml.pre`.

use super::kinds::{CharSet, Cursor, LETTER, MARK};
use super::rules::Gpt4;
use super::{Runs, Step};
use crate::tokenizer::byte_pairs::Whole;

/// Cuts texts into pieces, in one step or several: each step cuts the pieces of the one before.
///
/// Source: the pre-tokenizers in the published `tokenizer.json` of each model; for `default`, which stands
/// for no certain model, and for names that several models share, what llama.cpp takes them for.
#[derive(Debug, Clone)]
pub(in crate::tokenizer) struct PreTokenizer {
    steps: Vec<Step>,
    /// Whether a piece that is a token is taken as it is.
    pub(in crate::tokenizer) whole: Whole,
    /// Whether a text begins with BOS unless the file says otherwise.
    pub(in crate::tokenizer) add_bos: bool,
}

/// Letters with case, as DeepSeek LLM lists them.
const CASED: &str = concat!(
    r"[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}",
    r"\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}",
    r"\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}",
    r"\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}",
    r"\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}",
    r"\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}",
    r"\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}",
    r"\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}",
    r"\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}",
    r"\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}",
    r"\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}",
    r"\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}",
    r"\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}",
    r"\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]",
);

impl PreTokenizer {
    /// The pre-tokenizer of a name, if it is known.
    pub(in crate::tokenizer) fn named(name: &str) -> Option<Self> {
        let words = |digits| Step::Gpt4(Gpt4 { word: LETTER, digits, line_ends: true });
        let run_of = |set: &str| runs("", set, 1, usize::MAX);
        let digit = || runs("", r"\p{N}", 1, 1);
        let three_digits = || runs("", "[0-9]", 3, 3);
        let mut as_llama3 = false;
        let steps = match name {
            "default" => {
                vec![run_of(r"[\p{P}$+<=>^~|]"), Step::Gpt2, run_of(r"\p{N}"), three_digits()]
            }
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
            | "lfm2" | "jina-v5-nano" => {
                as_llama3 = true;
                vec![words(3)]
            }
            "dbrx" | "smaug-bpe" | "glm4" | "chatglm-bpe" => vec![words(3)],
            "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "stablelm2" | "hunyuan"
            | "grok-2" | "bailingmoe" | "bailingmoe2" | "llada-moe" => vec![words(1)],
            "qwen35" => vec![Step::Gpt4(Gpt4 { word: LETTER | MARK, digits: 1, line_ends: true })],
            "seed-coder" => vec![Step::Gpt4(Gpt4 { word: LETTER, digits: 1, line_ends: false })],
            "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => {
                vec![Step::Gpt4o { digits: 3, contractions: true }]
            }
            "tekken" => {
                as_llama3 = true;
                vec![Step::Gpt4o { digits: 1, contractions: false }]
            }
            "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" | "trillion" | "granite-docling" | "exaone4"
            | "gigachat" | "a.x-4.0" | "mellum" | "modern-bert" | "roberta-bpe" | "jina-es" | "jina-de"
            | "jina-v2-es" | "jina-v2-de" | "jina-v1-en" | "jina-v2-code" => vec![Step::Gpt2],
            "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone" | "minerva-7b" => {
                vec![digit(), Step::Gpt2]
            }
            "falcon" => vec![run_of(r"[\p{P}$+<=>^~|`]"), Step::Gpt2, three_digits()],
            "bloom" | "poro-chat" | "gpt3-finnish" => vec![unpunctuated()],
            "viking" => vec![unpunctuated(), digit()],
            "deepseek-llm" => vec![
                runs("", r"[\r\n]", 1, 1),
                runs(r"\s", CASED, 1, usize::MAX),
                runs(r"\s", "[!-/:-~！-／：-～‘-‟\u{3000}-。]", 1, usize::MAX),
                Step::TrailingSpace,
                run_of(r"[一-龥ࠀ-一가-\u{d7ff}]"),
                run_of(r"\p{N}"),
            ],
            "deepseek-coder" => vec![
                runs("", r"[\r\n]", 1, 1),
                runs(r"\s", r"\p{L}", 1, usize::MAX),
                runs(r"\s", r"\p{P}", 1, usize::MAX),
                run_of(r"[一-龥ࠀ-一가-\u{d7ff}]"),
                digit(),
            ],
            "deepseek-v3" | "hunyuan-dense" => {
                vec![runs("", r"\p{N}", 1, 3), run_of("[一-龥぀-ゟ゠-ヿ]"), Step::DeepSeek3]
            }
            _ => return None,
        };
        let whole = if as_llama3 { Whole::All } else { Whole::Reached };
        Some(Self { steps, whole, add_bos: as_llama3 })
    }

    /// The steps alone, for tests.
    #[cfg(test)]
    pub(super) fn of(steps: Vec<Step>) -> Self {
        Self { steps, whole: Whole::Reached, add_bos: false }
    }

    #[cfg(test)]
    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Calls `each` with the pieces of a text from left to right; together they are the text.
    pub(in crate::tokenizer) fn cut(&self, text: &str, each: &mut dyn FnMut(&str)) {
        cut(&self.steps, Cursor::new(text), each);
    }
}

fn cut(steps: &[Step], cursor: Cursor<'_>, each: &mut dyn FnMut(&str)) {
    let Some((step, rest)) = steps.split_first() else { return each(cursor.text()) };
    let mut left = cursor.text();
    while !left.is_empty() {
        let (piece, after) = left.split_at(step.piece_len(cursor.with(left)));
        cut(rest, cursor.with(piece), each);
        left = after;
    }
}

fn runs(lead: &str, set: &str, fewest: usize, most: usize) -> Step {
    let lead = if lead.is_empty() { CharSet::empty() } else { CharSet::of(lead) };
    Step::Runs(Runs { lead, set: CharSet::of(set), fewest, most })
}

/// Bloom: ` ?[^(\s|.,!?…。，、।۔،)]+`.
fn unpunctuated() -> Step {
    runs("[ ]", r"[^(\s|.,!?…。，、।۔،)]", 1, usize::MAX)
}
