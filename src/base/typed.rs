//! Values that a file has as they are typed.

/// A file has it as it is typed, which [`std::str::FromStr`] reads and [`fmt::Display`] writes.
macro_rules! as_typed {
    ($($value:ty),*) => {$(
        impl TryFrom<String> for $value {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$value> for String {
            fn from(value: $value) -> String {
                value.to_string()
            }
        }
    )*};
}
