//! Python's pickle format, as far as Swift's builder files use it. Nothing is ever executed: the one constructor that
//! is known is `array.array`, and anything else is refused.

use core::fmt;
use std::collections::BTreeMap;

/// A value of a pickle.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// A list, dictionary, tuple, array or constructor, by its number: a pickle may name one object several times.
    Object(usize),
}

/// A value with parts.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Object {
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Tuple(Vec<Value>),
    Array(Vec<u32>),
    Global(String),
}

/// A pickle that was read.
#[derive(Debug)]
pub(super) struct Pickle {
    pub(super) objects: Vec<Object>,
    pub(super) root: Value,
}

/// Why bytes are no pickle of a builder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PickleError {
    Short,
    Operation(u8),
    Stack,
    Constructor(String),
    Text,
    Number,
}

impl fmt::Display for PickleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("it is cut short"),
            Self::Operation(code) => write!(f, "pickle operation {code:#04x} is not known"),
            Self::Stack => f.write_str("its pickle is inconsistent"),
            Self::Constructor(name) => write!(f, "it would construct a {name}"),
            Self::Text => f.write_str("a text in it is not UTF-8"),
            Self::Number => f.write_str("a number in it is out of range"),
        }
    }
}

/// An entry of the reader's stack.
#[derive(Debug)]
enum Entry {
    Mark,
    Value(Value),
}

struct Reader<'a> {
    rest: &'a [u8],
    stack: Vec<Entry>,
    memo: BTreeMap<u32, Value>,
    objects: Vec<Object>,
}

/// Reads a pickle.
pub(super) fn read(bytes: &[u8]) -> Result<Pickle, PickleError> {
    let mut reader = Reader {
        rest: bytes,
        stack: Vec::new(),
        memo: BTreeMap::new(),
        objects: Vec::new(),
    };
    loop {
        let code = reader.byte()?;
        if code == b'.' {
            let root = reader.pop()?;
            return Ok(Pickle {
                objects: reader.objects,
                root,
            });
        }
        reader.step(code)?;
    }
}

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Result<&[u8], PickleError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(PickleError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(PickleError::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn length(&mut self) -> Result<usize, PickleError> {
        let length = u32::from_le_bytes(self.array()?);
        usize::try_from(length).map_err(|_invalid| PickleError::Number)
    }

    fn text(&mut self, length: usize) -> Result<(), PickleError> {
        let text =
            core::str::from_utf8(self.take(length)?).map_err(|_invalid| PickleError::Text)?;
        let text = Value::Text(text.to_owned());
        self.push(text);
        Ok(())
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        let line = self.take(end.ok_or(PickleError::Short)? + 1)?;
        let line = core::str::from_utf8(line).map_err(|_invalid| PickleError::Text)?;
        Ok(line.trim_end().to_owned())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(Entry::Value(value));
    }

    fn push_object(&mut self, object: Object) {
        let number = self.objects.len();
        self.objects.push(object);
        self.push(Value::Object(number));
    }

    fn pop(&mut self) -> Result<Value, PickleError> {
        match self.stack.pop() {
            Some(Entry::Value(value)) => Ok(value),
            Some(Entry::Mark) | None => Err(PickleError::Stack),
        }
    }

    fn top(&self) -> Result<&Value, PickleError> {
        match self.stack.last() {
            Some(Entry::Value(value)) => Ok(value),
            Some(Entry::Mark) | None => Err(PickleError::Stack),
        }
    }

    /// Everything since the last mark.
    fn pop_to_mark(&mut self) -> Result<Vec<Value>, PickleError> {
        let is_mark = |entry: &Entry| matches!(entry, Entry::Mark);
        let mark = self
            .stack
            .iter()
            .rposition(is_mark)
            .ok_or(PickleError::Stack)?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        let value = |entry| match entry {
            Entry::Value(value) => Some(value),
            Entry::Mark => None,
        };
        Ok(values.into_iter().filter_map(value).collect())
    }

    fn object_mut(&mut self) -> Result<&mut Object, PickleError> {
        let Value::Object(number) = *self.top()? else {
            return Err(PickleError::Stack);
        };
        self.objects.get_mut(number).ok_or(PickleError::Stack)
    }

    fn append(&mut self, values: Vec<Value>) -> Result<(), PickleError> {
        match self.object_mut()? {
            Object::List(list) => list.extend(values),
            Object::Dict(_) | Object::Tuple(_) | Object::Array(_) | Object::Global(_) => {
                return Err(PickleError::Stack);
            }
        }
        Ok(())
    }

    fn set(&mut self, values: Vec<Value>) -> Result<(), PickleError> {
        let Object::Dict(entries) = self.object_mut()? else {
            return Err(PickleError::Stack);
        };
        let mut values = values.into_iter();
        while let (Some(key), Some(value)) = (values.next(), values.next()) {
            entries.push((key, value));
        }
        Ok(())
    }

    fn tuple(&mut self, length: usize) -> Result<(), PickleError> {
        let mut values = (0..length)
            .map(|_| self.pop())
            .collect::<Result<Vec<_>, _>>()?;
        values.reverse();
        self.push_object(Object::Tuple(values));
        Ok(())
    }

    fn memoize(&mut self, key: u32) -> Result<(), PickleError> {
        let value = self.top()?.clone();
        self.memo.insert(key, value);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), PickleError> {
        let value = self.memo.get(&key).cloned().ok_or(PickleError::Stack)?;
        self.push(value);
        Ok(())
    }

    fn long(&mut self) -> Result<(), PickleError> {
        let length = usize::from(self.byte()?);
        let bytes = self.take(length)?;
        let mut wide = match bytes.last() {
            Some(last) if *last >= 0x80 => [0xff; 8],
            Some(_) | None => [0; 8],
        };
        wide.get_mut(..length)
            .ok_or(PickleError::Number)?
            .copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    /// `array.array(typecode, list)`.
    fn reduce(&mut self) -> Result<(), PickleError> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let object = |value: &Value| match value {
            Value::Object(number) => self.objects.get(*number),
            Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => None,
        };
        match object(&callee) {
            Some(Object::Global(name)) if name == "array.array" => {}
            Some(Object::Global(name)) => return Err(PickleError::Constructor(name.clone())),
            _ => return Err(PickleError::Stack),
        }
        let Some(Object::Tuple(arguments)) = object(&arguments) else {
            return Err(PickleError::Stack);
        };
        let list = arguments.get(1).and_then(object);
        let Some(Object::List(list)) = list else {
            return Err(PickleError::Stack);
        };
        let number = |value: &Value| match value {
            Value::Int(number) => u32::try_from(*number).map_err(|_invalid| PickleError::Number),
            _ => Err(PickleError::Number),
        };
        let numbers = list.iter().map(number).collect::<Result<Vec<u32>, _>>()?;
        self.push_object(Object::Array(numbers));
        Ok(())
    }

    fn step(&mut self, code: u8) -> Result<(), PickleError> {
        match code {
            0x80 => self.byte().map(|_| ()),
            // A frame only says how much may be read at once.
            0x95 => self.array::<8>().map(|_| ()),
            b'(' => {
                self.stack.push(Entry::Mark);
                Ok(())
            }
            b'e' => self.pop_to_mark().and_then(|values| self.append(values)),
            b'a' => self.pop().and_then(|value| self.append(vec![value])),
            b'u' => self.pop_to_mark().and_then(|values| self.set(values)),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![key, value])
            }
            b't' => self
                .pop_to_mark()
                .map(|values| self.push_object(Object::Tuple(values))),
            0x85..=0x87 => self.tuple(usize::from(code - 0x84)),
            b'R' => self.reduce(),
            b'q' => self.byte().and_then(|key| self.memoize(u32::from(key))),
            b'r' => self
                .array()
                .and_then(|key| self.memoize(u32::from_le_bytes(key))),
            0x94 => {
                let next =
                    u32::try_from(self.memo.len()).map_err(|_invalid| PickleError::Number)?;
                self.memoize(next)
            }
            b'h' => self.byte().and_then(|key| self.recall(u32::from(key))),
            b'j' => self
                .array()
                .and_then(|key| self.recall(u32::from_le_bytes(key))),
            _ => self.value(code),
        }
    }

    fn value(&mut self, code: u8) -> Result<(), PickleError> {
        match code {
            b'N' => self.push(Value::None),
            0x88 | 0x89 => self.push(Value::Bool(code == 0x88)),
            b'K' => {
                let number = Value::Int(i64::from(self.byte()?));
                self.push(number);
            }
            b'M' => {
                let number = Value::Int(i64::from(u16::from_le_bytes(self.array()?)));
                self.push(number);
            }
            b'J' => {
                let number = Value::Int(i64::from(i32::from_le_bytes(self.array()?)));
                self.push(number);
            }
            0x8a => self.long()?,
            b'G' => {
                let number = Value::Float(f64::from_be_bytes(self.array()?));
                self.push(number);
            }
            // The texts of Python 3, and the byte strings in which Python 2 kept them.
            b'X' | b'T' => {
                let length = self.length()?;
                self.text(length)?;
            }
            0x8c | b'U' => {
                let length = usize::from(self.byte()?);
                self.text(length)?;
            }
            b']' => self.push_object(Object::List(Vec::new())),
            b'}' => self.push_object(Object::Dict(Vec::new())),
            b')' => self.push_object(Object::Tuple(Vec::new())),
            b'c' => {
                let name = format!("{}.{}", self.line()?, self.line()?);
                self.push_object(Object::Global(name));
            }
            _ => return Err(PickleError::Operation(code)),
        }
        Ok(())
    }
}

/// Writes a pickle of protocol 2, front to back.
#[derive(Debug)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.push(b'.');
        self.0
    }

    pub(super) fn none(&mut self) {
        self.0.push(b'N');
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.0.push(if value { 0x88 } else { 0x89 });
    }

    pub(super) fn int(&mut self, value: u64) {
        if let Ok(byte) = u8::try_from(value) {
            self.0.extend([b'K', byte]);
        } else if let Ok(short) = u16::try_from(value) {
            self.0.push(b'M');
            self.0.extend(short.to_le_bytes());
        } else {
            // The top bit is a sign; no number of a builder comes near it.
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            self.0.extend([0x8a, 8]);
            self.0.extend(value.to_le_bytes());
        }
    }

    pub(super) fn float(&mut self, value: f64) {
        self.0.push(b'G');
        self.0.extend(value.to_be_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.0.push(b'X');
        let length = u32::try_from(text.len()).expect("texts of a builder are far below 4 GiB");
        self.0.extend(length.to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    /// A dictionary, whose keys and values `fill` writes in turn.
    pub(super) fn dict(&mut self, fill: impl FnOnce(&mut Self)) {
        self.0.extend(b"}(");
        fill(self);
        self.0.push(b'u');
    }

    /// A list, whose values `fill` writes.
    pub(super) fn list(&mut self, fill: impl FnOnce(&mut Self)) {
        self.0.extend(b"](");
        fill(self);
        self.0.push(b'e');
    }

    /// An `array.array` of numbers of a type.
    pub(super) fn array(&mut self, typecode: &str, numbers: impl Iterator<Item = u64>) {
        self.0.extend(b"carray\narray\n");
        self.text(typecode);
        self.list(|writer| numbers.for_each(|number| writer.int(number)));
        self.0.extend([0x86, b'R']);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::new();
        writer.dict(|writer| {
            writer.text("numbers");
            writer.list(|writer| {
                [0, 255, 256, 70_000, 1 << 40]
                    .into_iter()
                    .for_each(|n| writer.int(n))
            });
            writer.text("array");
            writer.array("H", [1, 65_535].into_iter());
        });
        let pickle = read(&writer.finish()).unwrap();
        let numbers = [0, 255, 256, 70_000, 1 << 40].map(Value::Int).to_vec();
        assert!(pickle.objects.contains(&Object::List(numbers)));
        assert!(pickle.objects.contains(&Object::Array(vec![1, 65_535])));
    }

    #[test]
    fn nothing_but_arrays_is_constructed() {
        let attack = b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.";
        assert_eq!(
            read(attack).err(),
            Some(PickleError::Constructor("os.system".to_owned()))
        );
        assert_eq!(read(b"\x80\x02]").err(), Some(PickleError::Short));
        assert_eq!(
            read(b"\x80\x02\x93.").err(),
            Some(PickleError::Operation(0x93))
        );
        assert_eq!(read(b"e").err(), Some(PickleError::Stack));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(read(&bytes));
        }
    }
}
