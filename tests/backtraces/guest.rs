//! Guest code with known frames: four functions that call each other, and a trampoline to the host.
//!
//! ```text
//! main(context)        calls a(context, context.depth)
//! a, b, c(context, n)  n != 0: calls b, c, a with n - 1
//!                      n == 0: as context.bottom says: returns, traps, or calls the trampoline
//! trampoline(context)  notes its caller's frame in context.exit, and calls context.host
//! ```
//!
//! The compiler says where each call returns to, so that every frame of a backtrace is known in advance.

use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    AbiParam, BlockArg, ExtFuncData, ExternalName, FuncRef, Function, InstBuilder, MemFlagsData, Signature,
    StackSlotData, StackSlotKind, TrapCode as Cause, UserExternalName, UserFuncName, Value, types,
};
use cranelift_codegen::isa::{CallConv, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{Context as CodegenContext, FinalizedRelocTarget};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use std::ffi::c_void;
use std::mem::offset_of;
use std::ops::Range;
use std::ptr;
use std::sync::Arc;
use trapline::image::{Image, ImageBuilder};
use trapline::signal::Exit;
use trapline::{TrapCode, process};

/// What guest code finds through its argument.
#[repr(C)]
pub struct Context {
    pub depth: u64,
    pub bottom: u64,
    pub exit: *const Exit,
    pub host: unsafe extern "C" fn(*mut c_void),
    /// For the host function; guest code does not look at it.
    pub data: *mut c_void,
}

/// What the innermost function does.
pub const RETURN: u64 = 0;
pub const TRAP: u64 = 1;
pub const CALL_HOST: u64 = 2;

impl Context {
    pub fn new(depth: u64, bottom: u64, exit: &Exit) -> Context {
        unsafe extern "C" fn nothing(_: *mut c_void) {}
        Context { depth, bottom, exit, host: nothing, data: ptr::null_mut() }
    }

    pub fn as_argument(&mut self) -> *mut c_void {
        ptr::from_mut(self).cast()
    }
}

/// The functions, by their place in the text.
pub const MAIN: usize = 0;
pub const A: usize = 1;
const TRAMPOLINE: usize = 4;
const FUNCTIONS: usize = 5;

/// What is to be known of one function, in addresses.
#[derive(Clone, Debug)]
pub struct Placed {
    pub range: Range<usize>,
    /// Where its call of the next function returns to.
    pub after_call: usize,
    /// Where its call of the trampoline returns to.
    pub after_trampoline: usize,
    /// The instruction that traps.
    pub trap: usize,
}

/// Guest code that is mapped and registered.
pub struct Guest {
    pub functions: Vec<Placed>,
    pub image: Arc<Image>,
    _registration: process::Registration,
}

impl Guest {
    /// With so many bytes more in the frames of `a`, `b` and `c` than they need.
    pub fn load(frame: u32) -> Guest {
        let library = compile(frame);
        let mut builder = ImageBuilder::new();
        builder.text(library.text.as_slice());
        for function in &library.functions {
            if let Some(trap) = function.trap {
                builder.trap(trap, TrapCode::Unreachable);
            }
        }
        let image = Arc::new(Image::parse(&builder.finish().unwrap()).unwrap().publish().unwrap());
        let registration = process::register(image.clone()).unwrap();
        let start = image.text_range().start;
        let place = |function: &Compiled| Placed {
            range: start + function.range.start..start + function.range.end,
            after_call: start + function.after(|target| target != TRAMPOLINE),
            after_trampoline: start + function.after(|target| target == TRAMPOLINE),
            trap: start + function.trap.unwrap_or(0),
        };
        let functions = library.functions.iter().map(place).collect();
        Guest { functions, image, _registration: registration }
    }

    pub fn main(&self) -> unsafe extern "C" fn(*mut c_void) {
        let offset = self.functions[MAIN].range.start - self.image.text_range().start;
        // SAFETY: `main` was compiled as such a function; calling it is the caller's responsibility.
        unsafe { self.image.entry(offset) }.unwrap()
    }

    /// The function at depth `level` below `main`: `a` at 0.
    pub fn at(&self, level: u64) -> &Placed {
        &self.functions[A + (level % 3) as usize]
    }

    /// The return addresses in the callers of the function at `level`, innermost first, `main` included.
    pub fn callers(&self, level: u64) -> Vec<usize> {
        let chain = (0..level).rev().map(|level| self.at(level).after_call);
        chain.chain([self.functions[MAIN].after_call]).collect()
    }

    /// A call of `main` that goes so deep and traps there.
    pub fn trapped(&self, depth: u64) -> Vec<usize> {
        [vec![self.at(depth).trap], self.callers(depth)].concat()
    }

    /// A call of `main` that goes so deep and calls the host there.
    pub fn called_out(&self, depth: u64) -> Vec<usize> {
        [vec![self.at(depth).after_trampoline], self.callers(depth)].concat()
    }

    pub fn function_of(&self, pc: usize) -> Option<usize> {
        self.functions.iter().position(|function| function.range.contains(&pc))
    }
}

struct Compiled {
    range: Range<usize>,
    /// Whom it calls directly, and where that returns to.
    calls: Vec<(usize, usize)>,
    trap: Option<usize>,
}

impl Compiled {
    fn after(&self, target: impl Fn(usize) -> bool) -> usize {
        self.calls.iter().find(|call| target(call.0)).map_or(0, |call| call.1)
    }
}

struct Library {
    text: Vec<u8>,
    functions: Vec<Compiled>,
}

fn compile(frame: u32) -> Library {
    let mut flags = settings::builder();
    flags.set("opt_level", "speed").unwrap();
    flags.set("enable_probestack", "true").unwrap();
    flags.set("probestack_strategy", "inline").unwrap();
    flags.set("preserve_frame_pointers", "true").unwrap();
    let isa = cranelift_native::builder().unwrap().finish(settings::Flags::new(flags)).unwrap();
    let mut image = Library { text: Vec::new(), functions: Vec::new() };
    let mut links = Vec::new();
    for index in 0..FUNCTIONS {
        place(&isa, function(&isa, index, frame), &mut image, &mut links);
    }
    for (at, target, addend) in links {
        let distance = image.functions[target].range.start as i64 + addend - at as i64;
        image.text[at..at + 4].copy_from_slice(&i32::try_from(distance).unwrap().to_le_bytes());
    }
    image
}

fn place(isa: &OwnedTargetIsa, function: Function, image: &mut Library, links: &mut Vec<(usize, usize, i64)>) {
    let mut codegen = CodegenContext::for_function(function);
    codegen.compile(&**isa, &mut ControlPlane::default()).unwrap();
    let buffer = &codegen.compiled_code().unwrap().buffer;
    let start = image.text.len().next_multiple_of(16);
    image.text.resize(start, 0xcc);
    image.text.extend_from_slice(buffer.data());
    let mut calls = Vec::new();
    for reloc in buffer.relocs() {
        let FinalizedRelocTarget::ExternalName(ExternalName::User(name)) = &reloc.target else { unreachable!() };
        let target = &codegen.func.params.user_named_funcs()[*name];
        links.push((start + reloc.offset as usize, target.index as usize, reloc.addend));
        // The call that the relocation is part of.
        let after = buffer.call_sites().map(|call| call.ret_addr).find(|after| *after > reloc.offset).unwrap();
        calls.push((target.index as usize, start + after as usize));
    }
    let trap = buffer.traps().iter().find(|trap| trap.code == Cause::unwrap_user(1));
    image.functions.push(Compiled {
        range: start..image.text.len(),
        calls,
        trap: trap.map(|trap| start + trap.offset as usize),
    });
}

fn signature(params: usize) -> Signature {
    let mut signature = Signature::new(CallConv::SystemV);
    signature.params.extend(std::iter::repeat_n(AbiParam::new(types::I64), params));
    signature.returns.push(AbiParam::new(types::I64));
    signature
}

fn function(isa: &OwnedTargetIsa, index: usize, frame: u32) -> Function {
    let params = if index == MAIN || index == TRAMPOLINE { 1 } else { 2 };
    let mut function = Function::with_name_signature(UserFuncName::user(0, index as u32), signature(params));
    let mut scratch = FunctionBuilderContext::new();
    let mut builder = FunctionBuilder::new(&mut function, &mut scratch);
    let entry = builder.create_block();
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    let arguments = builder.block_params(entry).to_vec();
    let result = match index {
        MAIN => main_body(&mut builder, arguments[0]),
        TRAMPOLINE => trampoline_body(&mut builder, arguments[0]),
        _ => link_body(&mut builder, arguments[0], arguments[1], A + (index - A + 1) % 3, frame),
    };
    builder.ins().return_(&[result]);
    builder.seal_all_blocks();
    builder.finalize(isa.frontend_config());
    function
}

fn field(builder: &mut FunctionBuilder<'_>, context: Value, offset: usize) -> Value {
    builder.ins().load(types::I64, MemFlagsData::trusted(), context, offset as i32)
}

fn import(builder: &mut FunctionBuilder<'_>, target: usize, params: usize) -> FuncRef {
    let name = builder.func.declare_imported_user_function(UserExternalName::new(0, target as u32));
    let signature = builder.import_signature(signature(params));
    let name = ExternalName::user(name);
    builder.import_function(ExtFuncData { name, signature, colocated: true, patchable: false })
}

fn main_body(builder: &mut FunctionBuilder<'_>, context: Value) -> Value {
    let depth = field(builder, context, offset_of!(Context, depth));
    let a = import(builder, A, 2);
    let call = builder.ins().call(a, &[context, depth]);
    let result = builder.inst_results(call)[0];
    // Work after the call keeps it from being a jump.
    builder.ins().iadd(result, depth)
}

fn link_body(builder: &mut FunctionBuilder<'_>, context: Value, n: Value, next: usize, frame: u32) -> Value {
    if frame > 0 {
        let slot = builder.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, frame, 4));
        builder.ins().stack_store(types::I64, n, slot, 0);
    }
    let [deeper, bottom, dead, alive, out, done] = [(); 6].map(|()| builder.create_block());
    let result = builder.append_block_param(done, types::I64);
    builder.ins().brif(n, deeper, &[], bottom, &[]);

    builder.switch_to_block(deeper);
    let next = import(builder, next, 2);
    let less = builder.ins().iadd_imm_s(n, -1);
    let call = builder.ins().call(next, &[context, less]);
    let returned = builder.inst_results(call)[0];
    let sum = builder.ins().iadd(returned, n);
    builder.ins().jump(done, &[BlockArg::Value(sum)]);

    builder.switch_to_block(bottom);
    let what = field(builder, context, offset_of!(Context, bottom));
    let traps = builder.ins().icmp_imm_u(IntCC::Equal, what, TRAP as i64);
    builder.ins().brif(traps, dead, &[], alive, &[]);
    builder.switch_to_block(dead);
    builder.ins().trap(Cause::unwrap_user(1));
    builder.switch_to_block(alive);
    builder.ins().brif(what, out, &[], done, &[BlockArg::Value(n)]);

    builder.switch_to_block(out);
    let trampoline = import(builder, TRAMPOLINE, 1);
    let call = builder.ins().call(trampoline, &[context]);
    let returned = builder.inst_results(call)[0];
    builder.ins().jump(done, &[BlockArg::Value(returned)]);

    builder.switch_to_block(done);
    result
}

fn trampoline_body(builder: &mut FunctionBuilder<'_>, context: Value) -> Value {
    let trusted = MemFlagsData::trusted();
    let fp = builder.ins().get_frame_pointer(types::I64);
    let callers_fp = builder.ins().load(types::I64, trusted, fp, 0);
    let callers_pc = builder.ins().get_return_address(types::I64);
    let exit = field(builder, context, offset_of!(Context, exit));
    builder.ins().store(trusted, callers_fp, exit, 0);
    builder.ins().store(trusted, callers_pc, exit, 8);
    let host = field(builder, context, offset_of!(Context, host));
    let mut plain = signature(1);
    plain.returns.clear();
    let plain = builder.import_signature(plain);
    builder.ins().call_indirect(plain, host, &[context]);
    context
}
