//! Serde representation of values as the strings that the command line takes.

/// Serialises a type as the string that [`std::str::FromStr`] parses and [`fmt::Display`] writes.
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
