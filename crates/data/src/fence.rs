//! Which lines of a text are code: those between fences, as Markdown and the extraction of pages write them.

/// Follows the fences of a text from line to line.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    /// The backticks of the open fence; a longer fence may hold shorter ones.
    open: Option<usize>,
}

impl Fence {
    /// Whether the next line is code, or a fence itself.
    pub(crate) fn is_code(&mut self, line: &str) -> bool {
        let line = line.trim();
        let ticks = line.bytes().take_while(|&b| b == b'`').count();
        match self.open {
            None if ticks >= 3 => self.open = Some(ticks),
            Some(open) if ticks >= open && ticks == line.len() => self.open = None,
            Some(_) => {}
            None => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_fence_holds_a_shorter_one() {
        let mut fence = Fence::default();
        let text = "a\n````rust\n```\ncode\n```\n````\nb\n  ```\n  c";
        let code: Vec<bool> = text.lines().map(|line| fence.is_code(line)).collect();
        assert_eq!(code, [false, true, true, true, true, true, false, true, true]);
    }
}
