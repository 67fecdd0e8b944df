//! Ending a text at a string, wherever tokens cut it.

/// Finds the first of several strings in a text that comes in pieces, and holds back what could be its beginning.
///
/// Of matches that end at one place the longest counts; of others the one that ends first, so that the result does not
/// depend on how the text is cut into pieces.
///
/// ```
/// use elmwood_infer::StopText;
///
/// let mut stop = StopText::new(vec!["###".into()]);
/// assert_eq!(stop.push("two #"), "two ");
/// assert_eq!(stop.push("1 ##"), "#1 ");
/// assert_eq!(stop.push("#!"), "");
/// assert!(stop.found());
/// ```
#[derive(Debug, Clone)]
pub struct StopText {
    stops: Vec<String>,
    held: String,
    found: bool,
}

impl StopText {
    /// Looks for `stops`; an empty one is never found.
    #[must_use]
    pub fn new(mut stops: Vec<String>) -> Self {
        stops.retain(|stop| !stop.is_empty());
        Self { stops, held: String::new(), found: false }
    }

    /// Takes the next piece and gives what can be shown. After a stop string was found there is nothing to show any more.
    pub fn push(&mut self, piece: &str) -> String {
        if self.found {
            return String::new();
        }
        self.held.push_str(piece);
        let ends = |stop: &String| self.held.find(&**stop).map(|start| (start + stop.len(), start));
        let shown = match self.stops.iter().filter_map(ends).min() {
            Some((_, start)) => {
                self.found = true;
                start
            }
            None => self.held.len() - self.begun(),
        };
        let rest = self.held.split_off(shown);
        std::mem::replace(&mut self.held, rest)
    }

    /// Whether a stop string was found.
    #[must_use]
    pub fn found(&self) -> bool {
        self.found
    }

    /// What was held back, where the text ends without a stop string.
    #[must_use]
    pub fn finish(self) -> String {
        if self.found { String::new() } else { self.held }
    }

    /// Bytes at the end of the text that a stop string could begin with.
    fn begun(&self) -> usize {
        let beginnings = self.stops.iter().flat_map(|stop| stop.char_indices().map(|(end, _)| &stop[..end]));
        beginnings.filter(|begin| self.held.ends_with(begin)).map(str::len).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Twin: looks at the text from its start for every length that it could have had.
    fn before_stop(stops: &[String], text: &str) -> (String, bool) {
        for (end, c) in text.char_indices() {
            let text = &text[..end + c.len_utf8()];
            let found = stops.iter().filter(|stop| !stop.is_empty() && text.ends_with(&***stop));
            if let Some(stop) = found.max_by_key(|stop| stop.len()) {
                return (text[..text.len() - stop.len()].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn any_split_gives_what_the_whole_text_does(
            stops in prop::collection::vec("[abé]{0,4}", 0..4),
            pieces in prop::collection::vec("[abcé]{0,5}", 0..12),
        ) {
            let whole: String = pieces.concat();
            let (expected, found) = before_stop(&stops, &whole);
            let mut stop = StopText::new(stops);
            let mut shown = String::new();
            for piece in &pieces {
                shown += &stop.push(piece);
                prop_assert!(expected.starts_with(&shown), "{shown:?} is more than {expected:?}");
            }
            prop_assert_eq!(stop.found(), found);
            shown += &stop.finish();
            prop_assert_eq!(shown, expected);
        }
    }

    #[test]
    fn no_more_than_a_beginning_is_held_back() {
        let mut stop = StopText::new(vec!["\nuser:".into(), "\n\n".into()]);
        assert_eq!(stop.push("a\nu"), "a");
        assert_eq!(stop.push("nix\n"), "\nunix");
        assert_eq!(stop.push("us"), "");
        assert_eq!(stop.push("e"), "");
        assert_eq!(stop.clone().finish(), "\nuse");
        assert_eq!(stop.push("r: no"), "");
        assert!(stop.found());
        assert_eq!(stop.push("more"), "");
        assert_eq!(stop.finish(), "");
    }
}
