//! An interpreter of the pickle opcodes in state dicts, safe for untrusted files.
//!
//! Objects are in one list and refer to each other by index, so nothing recurses, and memory is bounded by the pickle's
//! length. Nothing is executed; a class is only a name.

use anyhow::{Context, Result, anyhow, bail};

/// The longest pickle, in bytes; a tensor takes about 150.
pub const LONGEST: usize = 16 << 20;

/// The most objects; a tensor takes about fifteen.
const MOST_OBJECTS: usize = 4 << 20;

/// An index into the objects.
pub(super) type Id = u32;

/// The byte range of a text in the pickle.
pub(super) type TextRange = (usize, usize);

pub(super) enum Object {
    /// Irrelevant to tensors: None, booleans, floats, bytes.
    Plain,
    Integer(i64),
    Text(TextRange),
    /// `module.name`
    Class(TextRange, TextRange),
    Tuple(Vec<Id>),
    List,
    Dict(Vec<(Id, Id)>),
    /// A persistent id.
    Storage(Id),
    /// A class called with a tuple.
    Call(Id, Id),
}

pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    objects: Vec<Object>,
    stack: Vec<Id>,
    /// The stack heights at the marks.
    marks: Vec<usize>,
    memo: Vec<Option<Id>>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(pickle: &'a [u8]) -> Self {
        Machine { bytes: pickle, at: 0, objects: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: Vec::new() }
    }

    /// Runs to STOP; returns the top of the stack.
    pub(super) fn run(&mut self) -> Result<Id> {
        loop {
            let start = self.at;
            let operation = self.byte()?;
            if operation == b'.' {
                return self.pop();
            }
            self.step(operation).with_context(|| format!("its pickle is damaged at byte {start}"))?;
        }
    }

    fn step(&mut self, operation: u8) -> Result<()> {
        match operation {
            // PROTO and FRAME are not needed.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'N' | 0x88 | 0x89 => self.push(Object::Plain)?,
            b'G' => self.plain(8)?,
            // BININT, BININT1 and BININT2, then LONG1 and LONG4.
            b'J' => self.integer(4, true)?,
            b'K' => self.integer(1, false)?,
            b'M' => self.integer(2, false)?,
            0x8a => {
                let len = self.length(1)?;
                self.integer(len, true)?;
            }
            0x8b => {
                let len = self.length(4)?;
                self.integer(len, true)?;
            }
            // Texts and bytes.
            b'X' => self.push_text(4)?,
            0x8c => self.push_text(1)?,
            0x8d => self.push_text(8)?,
            b'U' | b'C' => {
                let len = self.length(1)?;
                self.plain(len)?;
            }
            b'T' | b'B' => {
                let len = self.length(4)?;
                self.plain(len)?;
            }
            0x8e => {
                let len = self.length(8)?;
                self.plain(len)?;
            }
            b'(' => self.marks.push(self.stack.len()),
            b')' => self.push(Object::Tuple(Vec::new()))?,
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(operation - 0x84))?;
                self.push(Object::Tuple(items))?;
            }
            b't' => {
                let items = self.pop_mark()?;
                self.push(Object::Tuple(items))?;
            }
            b']' => self.push(Object::List)?,
            b'l' => {
                self.pop_mark()?;
                self.push(Object::List)?;
            }
            b'a' => drop(self.pop()?),
            b'e' => drop(self.pop_mark()?),
            b'}' => self.push(Object::Dict(Vec::new()))?,
            b's' => {
                let pair = self.pop_many(2)?;
                self.set(&pair)?;
            }
            b'u' => {
                let pairs = self.pop_mark()?;
                self.set(&pairs)?;
            }
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            // The memo.
            b'q' => self.remember(1)?,
            b'r' => self.remember(4)?,
            0x94 => {
                let top = self.top()?;
                self.memo.push(Some(top));
            }
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Object::Class(module, name))?;
            }
            0x93 => {
                let pair = self.pop_many(2)?;
                let (Object::Text(module), Object::Text(name)) = (self.object(pair[0]), self.object(pair[1])) else {
                    bail!("a class's name is not text");
                };
                let class = Object::Class(*module, *name);
                self.push(class)?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Object::Storage(id))?;
            }
            b'R' | 0x81 => {
                let pair = self.pop_many(2)?;
                self.call(pair[0], pair[1])?;
            }
            // BUILD: an object's state does not affect tensors.
            b'b' => drop(self.pop()?),
            other => bail!("a state dict does not use the operation 0x{other:02x}; it is not executed"),
        }
        Ok(())
    }

    fn call(&mut self, class: Id, arguments: Id) -> Result<()> {
        let Object::Tuple(items) = self.object(arguments) else {
            bail!("a class is called with something other than a tuple")
        };
        let is_dict = self.class(class)? == "collections.OrderedDict";
        match (is_dict, items.is_empty()) {
            (true, true) => self.push(Object::Dict(Vec::new())),
            (true, false) => bail!("an OrderedDict is made from something, which zotune does not read"),
            _ => self.push(Object::Call(class, arguments)),
        }
    }

    fn set(&mut self, pairs: &[Id]) -> Result<()> {
        let top = self.top()? as usize;
        let (pairs, []) = pairs.as_chunks::<2>() else { bail!("a name without a value") };
        match &mut self.objects[top] {
            Object::Dict(entries) => entries.extend(pairs.iter().map(|[key, value]| (*key, *value))),
            _ => bail!("names and values are put into something other than a dict"),
        }
        Ok(())
    }

    fn take(&mut self, len: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| anyhow!("its pickle ends in the middle; was the download cut short?"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// Reads an unsigned length of `size` bytes.
    fn length(&mut self, size: usize) -> Result<usize> {
        let mut wide = [0u8; 8];
        wide[..size].copy_from_slice(self.take(size)?);
        Ok(usize::try_from(u64::from_le_bytes(wide))?)
    }

    fn integer(&mut self, len: usize, signed: bool) -> Result<()> {
        if len > 8 {
            bail!("an integer of {len} bytes, which no tensor has");
        }
        let bytes = self.take(len)?;
        let is_negative = signed && bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = if is_negative { [0xff; 8] } else { [0; 8] };
        wide[..len].copy_from_slice(bytes);
        self.push(Object::Integer(i64::from_le_bytes(wide)))
    }

    fn plain(&mut self, len: usize) -> Result<()> {
        self.take(len)?;
        self.push(Object::Plain)
    }

    fn text_range(&mut self, len: usize) -> Result<TextRange> {
        let start = self.at;
        std::str::from_utf8(self.take(len)?).context("a text is not UTF-8")?;
        Ok((start, self.at))
    }

    fn push_text(&mut self, size: usize) -> Result<()> {
        let len = self.length(size)?;
        let text_range = self.text_range(len)?;
        self.push(Object::Text(text_range))
    }

    /// Reads a text up to the end of its line.
    fn line(&mut self) -> Result<TextRange> {
        let len = self.bytes[self.at..].iter().position(|byte| *byte == b'\n').context("a line that does not end")?;
        let text_range = self.text_range(len)?;
        self.at += 1;
        Ok(text_range)
    }

    fn push(&mut self, object: Object) -> Result<()> {
        if self.objects.len() == MOST_OBJECTS {
            bail!("it has more than {MOST_OBJECTS} objects, more than any state dict");
        }
        self.stack.push(Id::try_from(self.objects.len())?);
        self.objects.push(object);
        Ok(())
    }

    /// Pops `count` objects, not beyond the last mark.
    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let start = self.stack.len().checked_sub(count).filter(|start| *start >= floor);
        Ok(self.stack.split_off(start.context("its stack is empty")?))
    }

    fn pop(&mut self) -> Result<Id> {
        Ok(self.pop_many(1)?[0])
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().context("there is no mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&self) -> Result<Id> {
        self.stack.last().copied().context("its stack is empty")
    }

    fn remember(&mut self, size: usize) -> Result<()> {
        let (place, top) = (self.length(size)?, self.top()?);
        // Python numbers memo entries consecutively, so an index cannot exceed the offset.
        if place > self.at {
            bail!("it remembers a {place}th object");
        }
        if place >= self.memo.len() {
            self.memo.resize(place + 1, None);
        }
        self.memo[place] = Some(top);
        Ok(())
    }

    fn recall(&mut self, size: usize) -> Result<()> {
        let place = self.length(size)?;
        let known = self.memo.get(place).copied().flatten().context("it recalls an object that it did not remember")?;
        self.stack.push(known);
        Ok(())
    }

    pub(super) fn object(&self, id: Id) -> &Object {
        &self.objects[id as usize]
    }

    pub(super) fn text(&self, (start, end): TextRange) -> &str {
        std::str::from_utf8(&self.bytes[start..end]).unwrap_or_default()
    }

    pub(super) fn class(&self, id: Id) -> Result<String> {
        match self.object(id) {
            Object::Class(module, name) => Ok(format!("{}.{}", self.text(*module), self.text(*name))),
            _ => bail!("something is called that is not a class"),
        }
    }

    pub(super) fn tuple(&self, id: Id) -> Result<&[Id]> {
        match self.object(id) {
            Object::Tuple(items) => Ok(items),
            _ => bail!("a tuple is needed"),
        }
    }

    /// A size, a stride or an offset.
    pub(super) fn size(&self, id: Id) -> Result<usize> {
        match self.object(id) {
            Object::Integer(n) => usize::try_from(*n).map_err(|_| anyhow!("a size is {n}")),
            _ => bail!("a size is not an integer"),
        }
    }
}
