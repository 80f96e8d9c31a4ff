//! Python pickles read as data: numbers, texts, containers and numpy arrays, and nothing else.
//!
//! In: the bytes behind the header of an object `.npy` file, pickle protocols 2 to 5. Out: a flat table of [`Node`]s
//! that refer to each other by number. A pickle is a program for a small stack machine; the only calls that this
//! machine knows are those by which numpy 1.x and 2.x write arrays, scalars and element types. Nothing is ever executed
//! or imported: any other name is an error that says which. A few plain classes that suite2p leaves in `ops.npy`
//! (dates, paths) are accepted and become [`Node::Opaque`].
//!
//! Bounds: every read is checked against the file; nodes, stack and memo are limited by the number of opcodes (each
//! makes at most one node) and by [`MAX_NODES`]; raw bytes stay where they are in the file. Since nodes are numbers in
//! one table, a container that holds itself, or is nested a million deep, costs nothing: no function here recurses.

use super::npy::{NpyError, NumberType, decode_numbers, element_count};
use super::text_excerpt;
use std::collections::BTreeMap;

/// Objects that one pickle may hold. Ten thousand cells with twenty keys each take about two million.
pub const MAX_NODES: usize = 8_000_000;

/// Why a pickle was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// The file ends in the middle of a value.
    #[error("pickle cut short: byte {at} is needed, the file has {len}")]
    CutShort {
        /// Position that could not be read.
        at: usize,
        /// Bytes there are.
        len: usize,
    },
    /// A class or function that no array, scalar or container needs.
    #[error("holds a Python object `{name}`, expected only numpy arrays, scalars and plain containers")]
    ForbiddenObject {
        /// Module and name.
        name: String,
    },
    /// An instruction that plain data never need.
    #[error("pickle instruction 0x{opcode:02x} at byte {at} is not one that numpy writes for plain data")]
    Opcode {
        /// The instruction.
        opcode: u8,
        /// Where it stands.
        at: usize,
    },
    /// Instructions that do not fit together.
    #[error("damaged pickle at byte {at}: {what}")]
    Damaged {
        /// Where.
        at: usize,
        /// What does not fit.
        what: &'static str,
    },
    /// More objects than any sensible file.
    #[error("pickle holds more than {limit} objects")]
    TooMany {
        /// The limit.
        limit: usize,
    },
}

/// Number of a node in [`Pickle::nodes`].
pub(crate) type NodeId = u32;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Text or bytes, where they stand in the file.
    Text {
        start: usize,
        end: usize,
    },
    /// Bytes that are not in the file as they are (protocol 2 writes them as text).
    Bytes(Vec<u8>),
    Tuple(Vec<NodeId>),
    List(Vec<NodeId>),
    Dict(Vec<(NodeId, NodeId)>),
    /// An element type: numpy's name with the byte-order sign, such as `<i8`, `|O`.
    Dtype(String),
    Array(Array),
    Callable(Callable),
    /// A plain object of no interest (date, path).
    Opaque,
}

/// A numpy array. `data` is `Text`, `Bytes` or, for arrays of objects, `List`.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Array {
    pub shape: Vec<u64>,
    pub dtype: Option<NodeId>,
    pub fortran_order: bool,
    pub data: Option<NodeId>,
}

/// The functions that numpy's pickles call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Callable {
    Reconstruct,
    FromBuffer,
    Scalar,
    Ndarray,
    Dtype,
    /// How protocol 2 writes bytes: text that is to be encoded as Latin-1.
    Encode,
    Opaque,
}

/// A pickle taken apart.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    bytes: &'a [u8],
    nodes: Vec<Node>,
    root: NodeId,
}

impl<'a> Pickle<'a> {
    /// Reads one pickle from the beginning of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Pickle<'a>, PickleError> {
        let machine = Machine {
            bytes,
            at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: BTreeMap::new(),
            copied: 0,
        };
        machine.run()
    }

    /// The outermost value.
    pub fn root(&self) -> &Node {
        self.node(self.root)
    }

    /// A value by its number.
    pub fn node(&self, id: NodeId) -> &Node {
        self.nodes.get(id as usize).unwrap_or(&Node::None)
    }

    /// The raw bytes of a text or byte value.
    pub fn raw(&self, node: &'a Node) -> Option<&'a [u8]> {
        match node {
            Node::Text { start, end } => self.bytes.get(*start..*end),
            Node::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The value under a text key of a dictionary; the last one when the key is there twice, as Python has it.
    pub fn get(&self, dict: &[(NodeId, NodeId)], key: &str) -> Option<&Node> {
        let found = dict.iter().rev().find(|(k, _)| match self.node(*k) {
            Node::Text { start, end } => self.bytes.get(*start..*end) == Some(key.as_bytes()),
            _ => false,
        })?;
        Some(self.node(found.1))
    }

    /// A whole number: a Python integer, or a float or numpy scalar without a fraction.
    pub fn integer(&self, node: &Node) -> Option<i64> {
        match *node {
            Node::Int(value) => Some(value),
            Node::Float(value) if value.fract() == 0.0 && value.abs() < 9e15 => Some(value as i64),
            _ => None,
        }
    }

    /// A number: a Python integer or float, or a numpy scalar.
    pub fn number(&self, node: &Node) -> Option<f64> {
        match *node {
            Node::Int(value) => Some(value as f64),
            Node::Float(value) => Some(value),
            _ => None,
        }
    }

    /// numpy's name of an array's element type, `?` when the file does not say.
    pub fn dtype_name(&self, array: &Array) -> &str {
        match array.dtype.map(|id| self.node(id)) {
            Some(Node::Dtype(name)) => name,
            _ => "?",
        }
    }

    /// The numbers of an array in the order in which they lie in the file; lists of numbers count as arrays.
    pub fn numbers(&self, node: &Node) -> Result<Vec<f64>, NpyError> {
        const EXPECTED: &str = "an array of numbers";
        let wrong = |dtype: &str| NpyError::ElementType { dtype: dtype.to_string(), expected: EXPECTED };
        match node {
            Node::Array(array) => {
                let name = self.dtype_name(array);
                let number = NumberType::parse(name).ok_or_else(|| wrong(name))?;
                let data = array.data.and_then(|id| self.raw(self.node(id))).ok_or_else(|| wrong(name))?;
                let count = element_count(&array.shape).ok_or_else(|| NpyError::Shape {
                    shape: array.shape.clone(),
                    expected: "a shape that fits".into(),
                })?;
                decode_numbers(number, count, data)
            }
            Node::List(items) | Node::Tuple(items) => items
                .iter()
                .map(|&id| match *self.node(id) {
                    Node::Int(value) => Ok(value as f64),
                    Node::Float(value) => Ok(value),
                    Node::Bool(value) => Ok(f64::from(u8::from(value))),
                    _ => Err(wrong("list")),
                })
                .collect(),
            _ => Err(wrong("object")),
        }
    }
}

/// The stack machine.
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<NodeId>,
    marks: Vec<usize>,
    memo: BTreeMap<u32, NodeId>,
    /// Bytes copied out of the file so far; kept below its length, so that no pickle copies one text many times.
    copied: usize,
}

impl<'a> Machine<'a> {
    fn run(mut self) -> Result<Pickle<'a>, PickleError> {
        loop {
            let at = self.at;
            let [opcode] = self.take()?;
            match opcode {
                b'.' => {
                    let root = self.pop()?;
                    return Ok(Pickle { bytes: self.bytes, nodes: self.nodes, root });
                }
                0x80 => {
                    let [_protocol] = self.take()?;
                }
                0x95 => {
                    let _frame_length: [u8; 8] = self.take()?;
                }
                b'N' | 0x88 | 0x89 | b'J' | b'K' | b'M' | 0x8a | b'G' => self.number(opcode)?,
                b'X' | 0x8c | 0x8d | b'C' | b'B' | 0x8e | 0x96 | b'U' | b'T' => self.text(opcode)?,
                b'(' => self.marks.push(self.stack.len()),
                b')' => self.push(Node::Tuple(Vec::new()))?,
                0x85..=0x87 => {
                    let items = self.pop_many(usize::from(opcode - 0x84))?;
                    self.push(Node::Tuple(items))?;
                }
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Node::Tuple(items))?;
                }
                b']' => self.push(Node::List(Vec::new()))?,
                b'}' => self.push(Node::Dict(Vec::new()))?,
                b'a' | b'e' | b's' | b'u' => self.fill(opcode)?,
                b'c' | 0x93 => self.global(opcode)?,
                b'R' => self.reduce()?,
                b'b' => self.build()?,
                b'q' | b'r' | 0x94 | b'h' | b'j' => self.memory(opcode)?,
                _ => return Err(PickleError::Opcode { opcode, at }),
            }
        }
    }

    fn number(&mut self, opcode: u8) -> Result<(), PickleError> {
        let node = match opcode {
            b'N' => Node::None,
            0x88 => Node::Bool(true),
            0x89 => Node::Bool(false),
            b'J' => Node::Int(i64::from(i32::from_le_bytes(self.take()?))),
            b'K' => Node::Int(i64::from(u8::from_le_bytes(self.take()?))),
            b'M' => Node::Int(i64::from(u16::from_le_bytes(self.take()?))),
            b'G' => Node::Float(f64::from_be_bytes(self.take()?)),
            _ => {
                let [length] = self.take()?;
                let (start, end) = self.span(u64::from(length))?;
                let digits = &self.bytes[start..end];
                match digits.len() {
                    0 => Node::Int(0),
                    n @ 1..=8 => {
                        let raw = digits.iter().rev().fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte));
                        let unused = 64 - 8 * n as u32;
                        Node::Int(((raw << unused) as i64) >> unused)
                    }
                    // Longer integers exist in Python; nothing that is read here needs one.
                    _ => Node::Opaque,
                }
            }
        };
        self.push(node)
    }

    fn text(&mut self, opcode: u8) -> Result<(), PickleError> {
        let length = match opcode {
            0x8c | b'C' | b'U' => u64::from(u8::from_le_bytes(self.take()?)),
            b'X' | b'B' | b'T' => u64::from(u32::from_le_bytes(self.take()?)),
            _ => u64::from_le_bytes(self.take()?),
        };
        let (start, end) = self.span(length)?;
        self.push(Node::Text { start, end })
    }

    /// APPEND, APPENDS, SETITEM, SETITEMS: items on top of the stack go into the container below them.
    fn fill(&mut self, opcode: u8) -> Result<(), PickleError> {
        let items = match opcode {
            b'a' => self.pop_many(1)?,
            b's' => self.pop_many(2)?,
            _ => self.pop_to_mark()?,
        };
        let at = self.at;
        let container = self.top()?;
        match (self.nodes.get_mut(container as usize), opcode) {
            (Some(Node::List(list)), b'a' | b'e') => list.extend(items),
            (Some(Node::Dict(dict)), b's' | b'u') if items.len() % 2 == 0 => {
                dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            _ => return Err(PickleError::Damaged { at, what: "items for a value that is no list or dictionary" }),
        }
        Ok(())
    }

    fn global(&mut self, opcode: u8) -> Result<(), PickleError> {
        let (module, name) = if opcode == b'c' {
            (self.line()?, self.line()?)
        } else {
            let parts = self.pop_many(2)?;
            let text = |id: NodeId| match self.nodes.get(id as usize) {
                Some(Node::Text { start, end }) => Ok(&self.bytes[*start..*end]),
                _ => Err(PickleError::Damaged { at: self.at, what: "the name of an object is no text" }),
            };
            (text(parts[0])?, text(parts[1])?)
        };
        let callable = match (module, name) {
            (b"numpy.core.multiarray" | b"numpy._core.multiarray", b"_reconstruct") => Callable::Reconstruct,
            (b"numpy.core.multiarray" | b"numpy._core.multiarray", b"scalar") => Callable::Scalar,
            (b"numpy.core.numeric" | b"numpy._core.numeric", b"_frombuffer") => Callable::FromBuffer,
            (b"numpy", b"ndarray") => Callable::Ndarray,
            (b"numpy", b"dtype") => Callable::Dtype,
            (b"_codecs", b"encode") => Callable::Encode,
            (b"datetime", b"datetime" | b"date" | b"time" | b"timedelta") => Callable::Opaque,
            (b"pathlib" | b"pathlib._local", b"PosixPath" | b"WindowsPath" | b"PurePosixPath" | b"PureWindowsPath") => {
                Callable::Opaque
            }
            _ => {
                let name = format!("{}.{}", text_excerpt(module), text_excerpt(name));
                return Err(PickleError::ForbiddenObject { name });
            }
        };
        self.push(Node::Callable(callable))
    }

    /// REDUCE: a call. Only the calls by which numpy makes arrays are known.
    fn reduce(&mut self) -> Result<(), PickleError> {
        let at = self.at;
        let damaged = |what| PickleError::Damaged { at, what };
        let pair = self.pop_many(2)?;
        let Some(Node::Callable(callable)) = self.nodes.get(pair[0] as usize) else {
            return Err(damaged("a call of something that is no function"));
        };
        let Some(Node::Tuple(arguments)) = self.nodes.get(pair[1] as usize) else {
            return Err(damaged("a call without a tuple of arguments"));
        };
        let node = match (callable, arguments.as_slice()) {
            (Callable::Reconstruct, _) => Node::Array(Array::default()),
            (Callable::Dtype, [name, ..]) => {
                Node::Dtype(self.dtype(*name).ok_or(damaged("an element type without a name"))?)
            }
            (Callable::Scalar, [dtype, data]) => self.scalar(*dtype, *data),
            (Callable::FromBuffer, [data, dtype, shape, order]) => Node::Array(Array {
                shape: self.shape(*shape).ok_or(damaged("an array without a shape"))?,
                dtype: Some(*dtype),
                fortran_order: self.raw(*order) == Some(b"F"),
                data: Some(*data),
            }),
            (Callable::Encode, [text, ..]) => {
                let latin = self.latin1(*text).ok_or(damaged("bytes that are no Latin-1 text"))?;
                self.copied += latin.len() + 1;
                if self.copied > self.bytes.len() {
                    return Err(damaged("the same bytes copied many times"));
                }
                Node::Bytes(latin)
            }
            (Callable::Opaque, _) => Node::Opaque,
            _ => return Err(damaged("a call with the wrong arguments")),
        };
        self.push(node)
    }

    /// BUILD: gives an array or an element type what its constructor left out.
    fn build(&mut self) -> Result<(), PickleError> {
        let at = self.at;
        let damaged = |what| PickleError::Damaged { at, what };
        let state = self.pop()?;
        let target = self.top()?;
        let parts = match self.nodes.get(state as usize) {
            Some(Node::Tuple(parts)) => parts.as_slice(),
            _ => &[],
        };
        let filled = match (self.nodes.get(target as usize), parts) {
            (Some(Node::Opaque), _) => return Ok(()),
            (Some(Node::Dtype(name)), [_, order, ..]) => {
                let base = name.trim_start_matches(['<', '>', '|', '=']);
                let sign = match self.raw(*order) {
                    Some(b">") => ">",
                    Some(b"<") => "<",
                    _ => "|",
                };
                Node::Dtype(format!("{sign}{base}"))
            }
            (Some(Node::Array(_)), [_, shape, dtype, order, data]) => Node::Array(Array {
                shape: self.shape(*shape).ok_or(damaged("an array without a shape"))?,
                dtype: Some(*dtype),
                fortran_order: matches!(self.nodes.get(*order as usize), Some(Node::Bool(true) | Node::Int(1))),
                data: Some(*data),
            }),
            _ => return Err(damaged("a state for something that is no array or element type")),
        };
        if let Some(node) = self.nodes.get_mut(target as usize) {
            *node = filled;
        }
        Ok(())
    }

    fn memory(&mut self, opcode: u8) -> Result<(), PickleError> {
        let slot = match opcode {
            b'q' | b'h' => u32::from(u8::from_le_bytes(self.take()?)),
            b'r' | b'j' => u32::from_le_bytes(self.take()?),
            _ => self.memo.len() as u32,
        };
        if matches!(opcode, b'h' | b'j') {
            let at = self.at;
            let id = *self.memo.get(&slot).ok_or(PickleError::Damaged { at, what: "a value that was never kept" })?;
            self.stack.push(id);
        } else {
            let id = self.top()?;
            self.memo.insert(slot, id);
        }
        Ok(())
    }

    /// The short name of an element type, at most 16 bytes of it.
    fn dtype(&self, name: NodeId) -> Option<String> {
        Some(text_excerpt(self.raw(name)?.get(..16.min(self.raw(name)?.len()))?))
    }

    fn scalar(&self, dtype: NodeId, data: NodeId) -> Node {
        let (Some(Node::Dtype(name)), Some(data)) = (self.nodes.get(dtype as usize), self.raw(data)) else {
            return Node::Opaque;
        };
        match NumberType::parse(name) {
            Some(number) => match (number.decode(data), number.kind) {
                (Some(value), b'b') => Node::Bool(value != 0.0),
                (Some(value), b'f') => Node::Float(value),
                (Some(value), _) => Node::Int(value as i64),
                (None, _) => Node::Opaque,
            },
            None => Node::Opaque,
        }
    }

    fn shape(&self, id: NodeId) -> Option<Vec<u64>> {
        let Some(Node::Tuple(lengths)) = self.nodes.get(id as usize) else { return None };
        let length = |&id: &NodeId| match self.nodes.get(id as usize) {
            Some(Node::Int(length)) => u64::try_from(*length).ok(),
            _ => None,
        };
        // no array that is read here has more; it keeps hostile files small
        if lengths.len() > 8 { None } else { lengths.iter().map(length).collect() }
    }

    fn latin1(&self, id: NodeId) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(self.raw(id)?).ok()?;
        text.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect()
    }

    fn raw(&self, id: NodeId) -> Option<&[u8]> {
        match self.nodes.get(id as usize)? {
            Node::Text { start, end } => self.bytes.get(*start..*end),
            Node::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    fn push(&mut self, node: Node) -> Result<(), PickleError> {
        if self.nodes.len() >= MAX_NODES {
            return Err(PickleError::TooMany { limit: MAX_NODES });
        }
        self.stack.push(self.nodes.len() as NodeId);
        self.nodes.push(node);
        Ok(())
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<NodeId, PickleError> {
        let empty = PickleError::Damaged { at: self.at, what: "the stack is empty" };
        if self.stack.len() > self.floor() { self.stack.last().copied().ok_or(empty) } else { Err(empty) }
    }

    fn pop(&mut self) -> Result<NodeId, PickleError> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<NodeId>, PickleError> {
        let keep = self.stack.len().checked_sub(count).filter(|&keep| keep >= self.floor());
        let keep = keep.ok_or(PickleError::Damaged { at: self.at, what: "the stack is empty" })?;
        Ok(self.stack.split_off(keep))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<NodeId>, PickleError> {
        let mark = self.marks.pop().ok_or(PickleError::Damaged { at: self.at, what: "a mark is missing" })?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let (start, _) = self.span(N as u64)?;
        let mut taken = [0; N];
        taken.copy_from_slice(&self.bytes[start..start + N]);
        Ok(taken)
    }

    fn span(&mut self, length: u64) -> Result<(usize, usize), PickleError> {
        let len = self.bytes.len();
        let start = self.at;
        let end = usize::try_from(length).ok().and_then(|length| start.checked_add(length)).filter(|&end| end <= len);
        self.at = end.ok_or(PickleError::CutShort { at: start.saturating_add(length as usize), len })?;
        Ok((start, self.at))
    }

    fn line(&mut self) -> Result<&'a [u8], PickleError> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().take(256).position(|&byte| byte == b'\n');
        let end = end.ok_or(PickleError::Damaged { at: self.at, what: "an object's name without an end" })?;
        self.at += end + 1;
        Ok(&rest[..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error_of(bytes: &[u8]) -> String {
        Pickle::parse(bytes).unwrap_err().to_string()
    }

    /// `{'a': [1, -2, 2.5, True, None], 'b': 'text'}` in protocol 2.
    const PLAIN: &[u8] = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xff\
      G@\x04\x00\x00\x00\x00\x00\x00\x88Neh\x01X\x04\x00\x00\x00textu.";

    #[test]
    fn plain_containers_are_read_and_the_last_of_two_equal_keys_wins() {
        let pickle = Pickle::parse(PLAIN).unwrap();
        let Node::Dict(dict) = pickle.root() else { panic!("{:?}", pickle.root()) };
        assert_eq!(dict.len(), 2);
        assert_eq!(pickle.get(dict, "a").and_then(|node| pickle.raw(node)), Some(b"text".as_slice()));
        let Node::List(list) = pickle.node(dict[0].1) else { panic!("no list") };
        let items: Vec<_> = list.iter().map(|&id| pickle.node(id).clone()).collect();
        assert_eq!(items, [Node::Int(1), Node::Int(-2), Node::Float(2.5), Node::Bool(true), Node::None]);
    }

    #[test]
    fn any_function_that_is_not_numpys_is_refused_by_name() {
        let expected = "holds a Python object `os.system`, expected only numpy arrays, scalars and plain containers";
        assert_eq!(error_of(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R."), expected);
        assert_eq!(error_of(b"\x80\x04\x8c\x02os\x8c\x06system\x93."), expected);
        assert!(error_of(b"cnumpy\nload\n.").contains("`numpy.load`"));
        assert!(error_of(b"\x80\x02c__builtin__\neval\n.").contains("`__builtin__.eval`"));
    }

    #[test]
    fn instructions_that_make_objects_are_refused() {
        // NEWOBJ, INST, PERSID, EXT1, and a call of a call's result
        for opcode in [0x81, b'i', b'P', 0x82, b'o'] {
            assert!(error_of(&[0x80, 2, opcode, b'.']).contains("not one that numpy writes"), "{opcode}");
        }
        assert!(error_of(b"K\x01)R.").contains("no function"));
        assert!(error_of(b"K\x01)b.").contains("a state for something"));
    }

    #[test]
    fn a_list_that_holds_itself_and_one_nested_a_million_deep_are_harmless() {
        let pickle = Pickle::parse(b"]q\x00h\x00a.").unwrap();
        assert_eq!(*pickle.root(), Node::List(vec![0]));
        let mut deep = vec![b']'; 1_000_000];
        deep.extend(vec![b'a'; 999_999]);
        deep.push(b'.');
        assert!(matches!(Pickle::parse(&deep).unwrap().root(), Node::List(_)));
    }

    #[test]
    fn lengths_beyond_the_file_are_refused_before_anything_is_allocated() {
        assert!(error_of(b"X\xff\xff\xff\xffab").contains("cut short"));
        assert!(error_of(b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffab").contains("cut short"));
        assert!(error_of(b"\x80").contains("cut short"));
        assert!(error_of(b"h\x05.").contains("never kept"));
        assert!(error_of(b"a.").contains("stack is empty"));
        assert!(error_of(b"e.").contains("mark is missing"));
    }

    #[test]
    fn bytes_as_protocol_2_writes_them_are_latin_1() {
        let text = "\u{e9}\u{1}".as_bytes();
        let mut bytes = b"c_codecs\nencode\nX\x03\x00\x00\x00".to_vec();
        bytes.extend(text);
        bytes.extend(b"X\x06\x00\x00\x00latin1\x86R.");
        assert_eq!(*Pickle::parse(&bytes).unwrap().root(), Node::Bytes(vec![0xe9, 1]));
    }

    #[test]
    fn copying_one_text_again_and_again_is_refused() {
        let mut bytes = b"c_codecs\nencode\nX\x40\x00\x00\x00".to_vec();
        bytes.extend([b'a'; 64]);
        bytes.extend(b"\x85q\x01R");
        for _ in 0..50 {
            bytes.extend(b"c_codecs\nencode\nh\x01R");
        }
        bytes.push(b'.');
        assert!(error_of(&bytes).contains("copied many times"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Pickle::parse(&bytes);
        }

        #[test]
        fn no_sequence_of_known_instructions_makes_the_reader_panic(
            codes in proptest::collection::vec(prop::sample::select(vec![
                &b"N"[..], b"K\x01", b"K\x03", b"(", b")", b"\x85", b"\x86", b"\x87", b"t", b"]", b"}", b"a", b"e",
                b"s", b"u", b"R", b"b", b"q\x00", b"h\x00", b"\x94", b"h\x01", b"X\x02\x00\x00\x00i8",
                b"\x8c\x01<", b"C\x02ab",
                b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"\x8a\x01\x05",
                b"cnumpy._core.multiarray\nscalar\n", b"cnumpy._core.numeric\n_frombuffer\n", b"c_codecs\nencode\n",
            ]), 0..60)
        ) {
            let bytes = codes.concat();
            let _ = Pickle::parse(&bytes);
            let _ = Pickle::parse(&[bytes, b".".to_vec()].concat()).map(|pickle| pickle.numbers(pickle.root()));
        }

        #[test]
        fn every_cut_and_every_flipped_bit_ends_in_a_value_or_an_error(cut in 0..PLAIN.len(), bit in 0_usize..8) {
            let mut bytes = PLAIN.to_vec();
            bytes[cut] ^= 1 << bit;
            let _ = Pickle::parse(&bytes);
            prop_assert!(Pickle::parse(&PLAIN[..cut]).is_err());
        }
    }
}
