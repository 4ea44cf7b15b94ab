//! Parquet files as the hub's data sets are.

use std::path::Path;

use anyhow::{Context, Result};

/// A column of a parquet file.
pub enum Column {
    Texts(Vec<String>),
    Numbers(Vec<i64>),
}

/// Writes columns as the hub's data sets are: snappy, dictionaries, and so many rows to a group.
pub fn write_parquet(path: &Path, columns: &[(&str, Column)], rows_a_group: usize) -> Result<()> {
    use parquet::basic::{Compression, ConvertedType, Repetition, Type as Physical};
    use parquet::data_type::{ByteArrayType, Int64Type};
    use parquet::file::{properties::WriterProperties, writer::SerializedFileWriter};
    use parquet::schema::types::Type;
    let field = |(name, column): &(&str, Column)| {
        let builder = match column {
            Column::Texts(_) => {
                Type::primitive_type_builder(name, Physical::BYTE_ARRAY).with_converted_type(ConvertedType::UTF8)
            }
            Column::Numbers(_) => Type::primitive_type_builder(name, Physical::INT64),
        };
        Ok(builder.with_repetition(Repetition::OPTIONAL).build()?.into())
    };
    let fields = columns.iter().map(field).collect::<Result<_>>()?;
    let schema = Type::group_type_builder("schema").with_fields(fields).build()?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    std::fs::create_dir_all(path.parent().context("a file without a folder")?)?;
    let mut writer = SerializedFileWriter::new(std::fs::File::create(path)?, schema.into(), properties.into())?;
    let len = columns.first().map_or(0, |(_, column)| match column {
        Column::Texts(values) => values.len(),
        Column::Numbers(values) => values.len(),
    });
    for start in (0..len).step_by(rows_a_group) {
        let rows = start..len.min(start + rows_a_group);
        let mut group = writer.next_row_group()?;
        for (_, column) in columns {
            let mut place = group.next_column()?.context("a column is missing")?;
            let present = vec![1; rows.len()];
            match column {
                Column::Texts(values) => {
                    let values: Vec<_> = values[rows.clone()].iter().map(|text| text.as_str().into()).collect();
                    place.typed::<ByteArrayType>().write_batch(&values, Some(&present), None)?;
                }
                Column::Numbers(values) => {
                    place.typed::<Int64Type>().write_batch(&values[rows.clone()], Some(&present), None)?;
                }
            }
            place.close()?;
        }
        group.close()?;
    }
    writer.close()?;
    Ok(())
}
