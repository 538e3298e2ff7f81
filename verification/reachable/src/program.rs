//! A linked program: its functions by address, its imports by the slots that hold them.

use object::read::elf::ElfFile64;
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionKind, SymbolKind};
use std::collections::BTreeMap;
use std::error::Error;
use std::ops::Range;

/// A function, or a piece of code without a name.
#[derive(Clone, Debug)]
pub struct Function {
    pub name: String,
    pub code: Range<u64>,
}

/// What a slot of the global offset table holds once the program is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    Import(String),
    Local(u64),
}

pub struct Program {
    functions: BTreeMap<u64, Function>,
    slots: BTreeMap<u64, Slot>,
    sections: Vec<(u64, Vec<u8>, bool)>,
}

impl Program {
    pub fn read(file: &[u8]) -> Result<Program, Box<dyn Error>> {
        let elf = ElfFile64::<object::Endianness>::parse(file)?;
        let mut functions = BTreeMap::new();
        for symbol in elf.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0) {
            let code = symbol.address()..symbol.address() + symbol.size();
            let name = format!("{:#}", rustc_demangle::demangle(symbol.name()?));
            functions.insert(code.start, Function { name, code });
        }
        let mut slots = BTreeMap::new();
        let symbols = elf.dynamic_symbol_table().ok_or("a program without dynamic symbols")?;
        for (slot, relocation) in elf.dynamic_relocations().ok_or("a program without dynamic relocations")? {
            let holds = match relocation.target() {
                RelocationTarget::Symbol(index) => {
                    let symbol = object::ObjectSymbolTable::symbol_by_index(&symbols, index)?;
                    match symbol.is_undefined() {
                        true => Slot::Import(symbol.name()?.to_owned()),
                        false => Slot::Local(symbol.address()),
                    }
                }
                _ => Slot::Local(u64::try_from(relocation.addend()).unwrap_or(0)),
            };
            slots.insert(slot, holds);
        }
        let mut sections = Vec::new();
        for section in elf.sections() {
            if matches!(section.kind(), SectionKind::Text | SectionKind::ReadOnlyData | SectionKind::ReadOnlyString) {
                sections.push((section.address(), section.data()?.to_vec(), section.kind() == SectionKind::Text));
            }
        }
        Ok(Program { functions, slots, sections })
    }

    /// The function that starts at `address`, or a nameless one as long as it could be.
    pub fn function_at(&self, address: u64) -> Function {
        self.functions.get(&address).cloned().unwrap_or_else(|| {
            let end = self.functions.range(address + 1..).next().map_or(u64::MAX, |(start, _)| *start);
            Function { name: format!("code at {address:#x}"), code: address..end }
        })
    }

    pub fn is_function(&self, address: u64) -> bool {
        self.functions.contains_key(&address)
    }

    pub fn named(&self, name: &str) -> Option<&Function> {
        self.functions.values().find(|function| function.name == name)
    }

    pub fn slot(&self, address: u64) -> Option<&Slot> {
        self.slots.get(&address)
    }

    /// The machine code from `address` to the end of its section.
    pub fn code(&self, address: u64) -> Option<&[u8]> {
        self.bytes(address, true)
    }

    /// A word of a table of constants.
    pub fn constant(&self, address: u64) -> Option<i32> {
        Some(i32::from_le_bytes(*self.bytes(address, false)?.first_chunk()?))
    }

    fn bytes(&self, address: u64, executable: bool) -> Option<&[u8]> {
        self.sections.iter().filter(|section| section.2 == executable).find_map(|(start, bytes, _)| {
            let offset = usize::try_from(address.checked_sub(*start)?).ok()?;
            bytes.get(offset..).filter(|rest| !rest.is_empty())
        })
    }
}
