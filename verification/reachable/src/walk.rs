//! Everything that can be executed from one entry on.
//!
//! Control flow is followed as the processor would, into every branch of every function: what follows a call, both
//! sides of a condition, each target of a jump table, tail calls. A function whose address is merely taken counts as
//! called. What is called through a register or memory is an *indirect call*, unless the register holds nothing but one
//! import in all of that function.
//!
//! Landing pads are left out: only an unwinder jumps there, and unwinding begins with a call that would be listed.

use crate::program::{Function, Program, Slot};
use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};
use std::collections::{BTreeMap, BTreeSet};

/// What an entry reaches. Places are names of functions.
#[derive(Default, Debug)]
pub struct Reached {
    /// Each with the one that was found to lead there.
    pub functions: BTreeMap<String, String>,
    pub imports: BTreeMap<String, BTreeSet<String>>,
    pub indirect_calls: Vec<Place>,
    /// Jumps whose targets are not known.
    pub lost: Vec<Place>,
    pub thread_local: Vec<Place>,
    pub system_calls: Vec<Place>,
    pub instructions: usize,
}

#[derive(Debug)]
pub struct Place {
    pub function: String,
    pub instruction: String,
}

impl Place {
    fn new(function: &Function, instruction: &Instruction) -> Place {
        Place { function: function.name.clone(), instruction: format!("{:#x}: {instruction}", instruction.ip()) }
    }
}

/// Walks on into functions whose names are `harmless`; of the others it is enough to know that they are reached.
pub fn from_entry(program: &Program, entry: &Function, harmless: impl Fn(&str) -> bool) -> Reached {
    let mut reached = Reached::default();
    let mut seen = BTreeSet::from([entry.code.start]);
    let mut waiting = vec![(entry.clone(), "its caller".to_owned())];
    while let Some((function, from)) = waiting.pop() {
        reached.functions.insert(function.name.clone(), from);
        if !harmless(&function.name) {
            continue;
        }
        for callee in Body::explore(program, &function).report(program, &function, &mut reached) {
            if seen.insert(callee) {
                waiting.push((program.function_at(callee), function.name.clone()));
            }
        }
    }
    reached
}

/// The instructions of one function that its start leads to.
struct Body {
    instructions: BTreeMap<u64, Instruction>,
    /// Jumps without a known target.
    lost: Vec<Instruction>,
}

impl Body {
    fn explore(program: &Program, function: &Function) -> Body {
        let mut body = Body { instructions: BTreeMap::new(), lost: Vec::new() };
        let mut tables = BTreeSet::new();
        let mut waiting = vec![function.code.start];
        let mut jumps = Vec::new();
        loop {
            while let Some(start) = waiting.pop() {
                let code = program.code(start).unwrap_or(&[]);
                for instruction in Decoder::with_ip(64, code, start, DecoderOptions::NONE).iter() {
                    let inside = function.code.contains(&instruction.ip());
                    if !inside || body.instructions.insert(instruction.ip(), instruction).is_some() {
                        break;
                    }
                    if instruction.mnemonic() == Mnemonic::Lea && instruction.is_ip_rel_memory_operand() {
                        tables.insert(instruction.ip_rel_memory_address());
                    }
                    let flow = instruction.flow_control();
                    if matches!(flow, FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch) {
                        waiting.extend(Some(instruction.near_branch_target()).filter(|to| function.code.contains(to)));
                    }
                    if flow == FlowControl::IndirectBranch && slot_of(program, &instruction).is_none() {
                        jumps.push(instruction);
                    }
                    let goes_on =
                        matches!(flow, FlowControl::Next | FlowControl::ConditionalBranch | FlowControl::Call)
                            || flow == FlowControl::IndirectCall;
                    if !goes_on || instruction.code() == Code::INVALID {
                        break;
                    }
                }
            }
            // A jump through a table may go wherever any table of this function says.
            let targets: BTreeSet<u64> = if jumps.is_empty() {
                BTreeSet::new()
            } else {
                tables.iter().flat_map(|table| table_targets(program, function, *table)).collect()
            };
            if targets.is_empty() {
                body.lost.append(&mut jumps);
            }
            waiting.extend(targets.into_iter().filter(|target| !body.instructions.contains_key(target)));
            if waiting.is_empty() {
                return body;
            }
        }
    }

    /// Adds what these instructions do, and returns the functions that they lead to.
    fn report(self, program: &Program, function: &Function, reached: &mut Reached) -> Vec<u64> {
        let mut callees = Vec::new();
        reached.instructions += self.instructions.len();
        reached.lost.extend(self.lost.iter().map(|jump| Place::new(function, jump)));
        let imports = self.registers_of_imports(program);
        for instruction in self.instructions.values() {
            let place = || Place::new(function, instruction);
            if matches!(instruction.mnemonic(), Mnemonic::Syscall | Mnemonic::Sysenter | Mnemonic::Int) {
                reached.system_calls.push(place());
                continue;
            }
            if matches!(instruction.memory_segment(), Register::FS | Register::GS) {
                reached.thread_local.push(place());
            }
            match slot_of(program, instruction) {
                Some(Slot::Import(name)) => {
                    reached.imports.entry(name.clone()).or_default().insert(function.name.clone());
                }
                Some(Slot::Local(address)) if program.is_function(*address) => callees.push(*address),
                _ => {}
            }
            match instruction.flow_control() {
                FlowControl::Call | FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                    callees.extend(
                        Some(instruction.near_branch_target()).filter(|target| !function.code.contains(target)),
                    );
                }
                FlowControl::IndirectCall if slot_of(program, instruction).is_none() => {
                    let known = instruction.op0_kind() == OpKind::Register
                        && imports.get(&instruction.op0_register()).is_some_and(|holds| *holds);
                    if !known {
                        reached.indirect_calls.push(place());
                    }
                }
                _ if instruction.mnemonic() == Mnemonic::Lea && instruction.is_ip_rel_memory_operand() => {
                    callees.extend(Some(instruction.ip_rel_memory_address()).filter(|to| program.is_function(*to)));
                }
                _ => {}
            }
        }
        callees
    }

    /// The registers that are written, and whether only from slots that hold functions (or restored before a return).
    fn registers_of_imports(&self, program: &Program) -> BTreeMap<Register, bool> {
        let mut registers = BTreeMap::new();
        let mut info = InstructionInfoFactory::new();
        for instruction in self.instructions.values() {
            let from_slot = instruction.mnemonic() == Mnemonic::Mov && slot_of(program, instruction).is_some();
            for used in info.info(instruction).used_registers() {
                let written = !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None);
                if written && instruction.mnemonic() != Mnemonic::Pop {
                    *registers.entry(used.register().full_register()).or_insert(true) &= from_slot;
                }
            }
        }
        registers
    }
}

/// The slot that an instruction reads, if it reads one.
fn slot_of<'p>(program: &'p Program, instruction: &Instruction) -> Option<&'p Slot> {
    let reads = instruction.is_ip_rel_memory_operand() && instruction.mnemonic() != Mnemonic::Lea;
    program.slot(instruction.ip_rel_memory_address()).filter(|_| reads)
}

/// Where a table of distances leads: as many entries as stay in the function.
fn table_targets(program: &Program, function: &Function, table: u64) -> Vec<u64> {
    let target = |entry: u64| {
        let distance = program.constant(table.checked_add(entry * 4)?)?;
        Some(table.wrapping_add_signed(i64::from(distance))).filter(|target| function.code.contains(target))
    };
    (0..4096).map_while(target).collect()
}
