//! Metadata: key-value pairs with a type each, read through getters that check it.

use crate::Error;

/// Id of the type of arrays in a file.
pub(super) const ARRAY_ID: u32 = 9;

/// Values and arrays of every type but arrays, with the types' ids in a file.
macro_rules! types {
    ($($variant:ident($ty:ty) = $id:literal $name:literal),* $(,)?) => {
        /// A value of the metadata.
        #[derive(Debug, Clone, PartialEq)]
        #[expect(missing_docs, reason = "the names are those of the format and say it all")]
        pub enum GgufValue {
            $($variant($ty),)*
            Array(GgufArray),
        }

        /// An array of the metadata: all elements have one type.
        #[derive(Debug, Clone, PartialEq)]
        #[expect(missing_docs, reason = "the names are those of the format and say it all")]
        pub enum GgufArray {
            $($variant(Vec<$ty>),)*
            Array(Vec<GgufArray>),
        }

        impl GgufValue {
            /// Id of the type in a file, and its name.
            pub(super) fn ty(&self) -> (u32, &'static str) {
                match self {
                    $(Self::$variant(_) => ($id, $name),)*
                    Self::Array(_) => (ARRAY_ID, "array"),
                }
            }
        }

        impl GgufArray {
            /// Id of the elements' type in a file, and its name.
            pub(super) fn ty(&self) -> (u32, &'static str) {
                match self {
                    $(Self::$variant(_) => ($id, $name),)*
                    Self::Array(_) => (ARRAY_ID, "array"),
                }
            }

            /// Number of elements.
            #[must_use]
            pub fn len(&self) -> usize {
                match self {
                    $(Self::$variant(values) => values.len(),)*
                    Self::Array(values) => values.len(),
                }
            }

            /// Whether there are no elements.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }
        }

        $(
            impl From<$ty> for GgufValue {
                fn from(value: $ty) -> Self {
                    Self::$variant(value)
                }
            }

            impl From<Vec<$ty>> for GgufValue {
                fn from(values: Vec<$ty>) -> Self {
                    Self::Array(GgufArray::$variant(values))
                }
            }
        )*
    };
}

types! {
    U8(u8) = 0 "u8",
    I8(i8) = 1 "i8",
    U16(u16) = 2 "u16",
    I16(i16) = 3 "i16",
    U32(u32) = 4 "u32",
    I32(i32) = 5 "i32",
    F32(f32) = 6 "f32",
    Bool(bool) = 7 "bool",
    String(String) = 8 "string",
    U64(u64) = 10 "u64",
    I64(i64) = 11 "i64",
    F64(f64) = 12 "f64",
}

impl From<&str> for GgufValue {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<GgufArray> for GgufValue {
    fn from(array: GgufArray) -> Self {
        Self::Array(array)
    }
}

impl GgufValue {
    /// A whole number of any width.
    fn integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(value) => value.into(),
            Self::I8(value) => value.into(),
            Self::U16(value) => value.into(),
            Self::I16(value) => value.into(),
            Self::U32(value) => value.into(),
            Self::I32(value) => value.into(),
            Self::U64(value) => value.into(),
            Self::I64(value) => value.into(),
            _ => return None,
        })
    }

    /// What is there, for messages.
    fn description(&self) -> String {
        match (self, self.integer()) {
            (Self::Array(array), _) => format!("an array of {} {}", array.len(), array.ty().1),
            (_, Some(number)) => format!("{number} ({})", self.ty().1),
            _ => format!("a {}", self.ty().1),
        }
    }
}

impl GgufArray {
    /// The elements as whole numbers of one type; none if they are no whole numbers or one does not fit.
    fn integers<T>(&self) -> Option<Vec<T>>
    where
        T: TryFrom<u8> + TryFrom<i8> + TryFrom<u16> + TryFrom<i16>,
        T: TryFrom<u32> + TryFrom<i32> + TryFrom<u64> + TryFrom<i64>,
    {
        fn all<S: Copy, T: TryFrom<S>>(values: &[S]) -> Option<Vec<T>> {
            values.iter().map(|&value| T::try_from(value).ok()).collect()
        }
        match self {
            Self::U8(values) => all(values),
            Self::I8(values) => all(values),
            Self::U16(values) => all(values),
            Self::I16(values) => all(values),
            Self::U32(values) => all(values),
            Self::I32(values) => all(values),
            Self::U64(values) => all(values),
            Self::I64(values) => all(values),
            _ => None,
        }
    }
}

/// What a metadata value can be read as: see [`GgufMetadata::get`].
///
/// Whole numbers may be of any width in the file as long as the value fits; writers differ in that. Nothing
/// else is converted, but for f64 to f32.
pub trait FromGguf<'a>: Sized {
    /// What is asked for, in words.
    const WANTED: &'static str;

    /// The value; none if it is of another type or does not fit.
    fn from_gguf(value: &'a GgufValue) -> Option<Self>;
}

macro_rules! from_integers {
    ($($ty:ty, $wanted:literal, $wanted_array:literal;)*) => {$(
        impl FromGguf<'_> for $ty {
            const WANTED: &'static str = $wanted;

            fn from_gguf(value: &GgufValue) -> Option<Self> {
                value.integer().and_then(|value| value.try_into().ok())
            }
        }

        impl FromGguf<'_> for Vec<$ty> {
            const WANTED: &'static str = $wanted_array;

            fn from_gguf(value: &GgufValue) -> Option<Self> {
                match value {
                    GgufValue::Array(array) => array.integers(),
                    _ => None,
                }
            }
        }
    )*};
}

from_integers! {
    u32, "a whole number from 0 to 2^32 - 1", "an array of whole numbers from 0 to 2^32 - 1";
    u64, "a whole number from 0 to 2^64 - 1", "an array of whole numbers from 0 to 2^64 - 1";
    i64, "a whole number of 64 bits", "an array of whole numbers of 64 bits";
    i32, "a whole number of 32 bits", "an array of whole numbers of 32 bits";
}

impl FromGguf<'_> for f32 {
    const WANTED: &'static str = "a floating-point number";

    fn from_gguf(value: &GgufValue) -> Option<Self> {
        match *value {
            GgufValue::F32(value) => Some(value),
            GgufValue::F64(value) => Some(value as f32),
            _ => None,
        }
    }
}

impl FromGguf<'_> for bool {
    const WANTED: &'static str = "a bool";

    fn from_gguf(value: &GgufValue) -> Option<Self> {
        if let GgufValue::Bool(value) = value { Some(*value) } else { None }
    }
}

impl<'a> FromGguf<'a> for &'a str {
    const WANTED: &'static str = "a string";

    fn from_gguf(value: &'a GgufValue) -> Option<Self> {
        if let GgufValue::String(value) = value { Some(value) } else { None }
    }
}

impl<'a> FromGguf<'a> for &'a [String] {
    const WANTED: &'static str = "an array of strings";

    fn from_gguf(value: &'a GgufValue) -> Option<Self> {
        if let GgufValue::Array(GgufArray::String(values)) = value { Some(values) } else { None }
    }
}

impl<'a> FromGguf<'a> for &'a [f32] {
    const WANTED: &'static str = "an array of f32";

    fn from_gguf(value: &'a GgufValue) -> Option<Self> {
        if let GgufValue::Array(GgufArray::F32(values)) = value { Some(values) } else { None }
    }
}

/// The key-value pairs of a file, in their order.
///
/// Every getter fails with [`Error::GgufKey`], which names the key, what was asked for and what is there.
///
/// ```
/// use elmwood_model::{GgufMetadata, GgufValue};
///
/// let mut metadata = GgufMetadata::default();
/// metadata.set("general.architecture", "phi3");
/// metadata.set("phi3.block_count", 32_u32);
/// assert_eq!(metadata.u32("phi3.block_count").unwrap(), 32);
/// assert_eq!(metadata.get::<f32>("phi3.rope.freq_base").unwrap(), None);
/// let error = metadata.str("phi3.block_count").unwrap_err();
/// assert_eq!(error.to_string(), "the metadata's `phi3.block_count` is 32 (u32), not a string");
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufMetadata {
    entries: Vec<(String, GgufValue)>,
}

impl GgufMetadata {
    /// Pairs whose keys are known to differ.
    pub(super) fn from_entries(entries: Vec<(String, GgufValue)>) -> Self {
        Self { entries }
    }

    /// Every pair in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &GgufValue)> {
        self.entries.iter().map(|(key, value)| (&**key, value))
    }

    /// Sets the value of a key: where it stands if it is there already, else at the end.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<GgufValue>) {
        let (key, value) = (key.into(), value.into());
        match self.entries.iter_mut().find(|entry| entry.0 == key) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((key, value)),
        }
    }

    /// The value of a key, whatever its type.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&GgufValue> {
        self.entries.iter().find(|entry| entry.0 == key).map(|entry| &entry.1)
    }

    /// The value of a key that may be missing.
    ///
    /// # Errors
    /// [`Error::GgufKey`] if it is there and of another type, or does not fit.
    pub fn get<'a, T: FromGguf<'a>>(&'a self, key: &str) -> Result<Option<T>, Error> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let read = T::from_gguf(value).ok_or_else(|| {
            let problem = format!("is {}, not {}", value.description(), T::WANTED);
            Error::GgufKey { key: key.into(), problem }
        })?;
        Ok(Some(read))
    }

    /// The value of a key that must be there.
    ///
    /// # Errors
    /// [`Error::GgufKey`].
    pub fn require<'a, T: FromGguf<'a>>(&'a self, key: &str) -> Result<T, Error> {
        let missing =
            || Error::GgufKey { key: key.into(), problem: format!("is missing; it should be {}", T::WANTED) };
        self.get(key)?.ok_or_else(missing)
    }

    /// A whole number that must be there.
    ///
    /// # Errors
    /// [`Error::GgufKey`].
    pub fn u32(&self, key: &str) -> Result<u32, Error> {
        self.require(key)
    }

    /// A whole number that must be there.
    ///
    /// # Errors
    /// [`Error::GgufKey`].
    pub fn u64(&self, key: &str) -> Result<u64, Error> {
        self.require(key)
    }

    /// A floating-point number that must be there.
    ///
    /// # Errors
    /// [`Error::GgufKey`].
    pub fn f32(&self, key: &str) -> Result<f32, Error> {
        self.require(key)
    }

    /// A truth value that must be there.
    ///
    /// # Errors
    /// [`Error::GgufKey`].
    pub fn bool(&self, key: &str) -> Result<bool, Error> {
        self.require(key)
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// [`Error::GgufKey`].
    pub fn str(&self, key: &str) -> Result<&str, Error> {
        self.require(key)
    }

    /// Texts that must be there.
    ///
    /// # Errors
    /// [`Error::GgufKey`].
    pub fn strings(&self, key: &str) -> Result<&[String], Error> {
        self.require(key)
    }

    /// Whole numbers that must be there.
    ///
    /// # Errors
    /// [`Error::GgufKey`].
    pub fn u32s(&self, key: &str) -> Result<Vec<u32>, Error> {
        self.require(key)
    }

    /// Floating-point numbers that must be there.
    ///
    /// # Errors
    /// [`Error::GgufKey`].
    pub fn f32s(&self, key: &str) -> Result<&[f32], Error> {
        self.require(key)
    }

    /// `general.architecture`: the family of the model, and the prefix of its keys.
    ///
    /// # Errors
    /// [`Error::GgufKey`].
    pub fn architecture(&self) -> Result<&str, Error> {
        self.str("general.architecture")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_may_have_any_width_that_holds_them() {
        let mut metadata = GgufMetadata::default();
        metadata.set("a", 7_u64);
        metadata.set("b", -1_i32);
        metadata.set("c", vec![1_i32, 2, 3]);
        metadata.set("d", 1.5_f64);
        metadata.set("e", vec!["x".to_owned(), "y".into()]);
        assert_eq!(metadata.u32("a").unwrap(), 7);
        assert_eq!(metadata.require::<i32>("b").unwrap(), -1);
        assert_eq!(metadata.u32s("c").unwrap(), [1, 2, 3]);
        assert_eq!(metadata.f32("d").unwrap(), 1.5);
        assert_eq!(metadata.strings("e").unwrap(), ["x", "y"]);
        let message = |result: Result<u32, Error>| result.unwrap_err().to_string();
        let u32_range = "a whole number from 0 to 2^32 - 1";
        assert_eq!(message(metadata.u32("b")), format!("the metadata's `b` is -1 (i32), not {u32_range}"));
        assert_eq!(
            message(metadata.u32("c")),
            format!("the metadata's `c` is an array of 3 i32, not {u32_range}")
        );
        assert_eq!(
            message(metadata.u32("z")),
            format!("the metadata's `z` is missing; it should be {u32_range}")
        );
        assert!(metadata.bool("a").is_err() && metadata.f32("a").is_err() && metadata.f32s("c").is_err());
    }

    #[test]
    fn a_key_is_set_once() {
        let mut metadata = GgufMetadata::default();
        metadata.set("a", 1_u32);
        metadata.set("b", 2_u32);
        metadata.set("a", "x");
        assert_eq!(metadata.iter().map(|entry| entry.0).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(metadata.str("a").unwrap(), "x");
    }
}
