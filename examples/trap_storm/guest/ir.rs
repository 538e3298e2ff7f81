//! One Cranelift function per [`Kind`].
//!
//! Every function has the same signature, `fn(context, a, b) -> u64` in the C calling convention, so that the host can
//! call any of them and the table can hold all of them.

use super::memory::{Context, FILE_MAP};
use super::{Constants, Kind, cause};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    AbiParam, ArgumentPurpose, BlockArg, ExtFuncData, ExternalName, Function, GlobalValueData, InstBuilder,
    MemFlagsData, SigRef, Signature, StackSlotData, StackSlotKind, UserExternalName, UserFuncName, Value, types,
};
use cranelift_codegen::isa::{CallConv, TargetFrontendConfig};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use std::mem::offset_of;

/// Large enough that a frame needs stack probes: no frame may step over the guard page.
const LARGE_FRAME: u32 = 8 << 10;

pub fn signature() -> Signature {
    let mut signature = Signature::new(CallConv::SystemV);
    signature.params.push(AbiParam::special(types::I64, ArgumentPurpose::VMContext));
    signature.params.push(AbiParam::new(types::I64));
    signature.params.push(AbiParam::new(types::I64));
    signature.returns.push(AbiParam::new(types::I64));
    signature
}

/// The function of `kind`, named by its place in the image, for calls to itself.
pub fn function(
    kind: Kind,
    index: u32,
    constants: Constants,
    target: TargetFrontendConfig,
    scratch: &mut FunctionBuilderContext,
) -> Function {
    let mut function = Function::with_name_signature(UserFuncName::user(0, index), signature());
    if kind == Kind::RecurseChecked {
        check_stack_limit(&mut function);
    }
    let mut builder = FunctionBuilder::new(&mut function, scratch);
    let entry = builder.create_block();
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    let &[context, a, b] = builder.block_params(entry) else {
        unreachable!("the signature has three parameters");
    };
    let mut body = Body { k: constants.k, index, context, a, b, builder };
    let result = match kind {
        Kind::Add => body.add(),
        Kind::CheckedAdd => body.checked_add(),
        Kind::UnsignedDiv | Kind::SignedDiv | Kind::UnsignedRem | Kind::SignedRem => body.divide(kind),
        Kind::Truncate => body.truncate(),
        Kind::Load => body.load(),
        Kind::Store => body.store(),
        Kind::FileLoad => body.file_load(),
        Kind::Unreachable => body.unreachable(),
        Kind::CallIndirect => body.call_indirect(constants.signature),
        Kind::RecurseChecked => body.recurse(None),
        Kind::RecurseGuarded => body.recurse(Some(LARGE_FRAME)),
        Kind::Spin => body.spin(),
        Kind::CallHost => body.call_host(),
    };
    body.builder.ins().return_(&[result]);
    body.builder.seal_all_blocks();
    body.builder.finalize(target);
    function
}

fn check_stack_limit(function: &mut Function) {
    let flags = function.dfg.mem_flags.insert(MemFlagsData::trusted()).expect("the first flags of a function fit");
    let base = function.create_global_value(GlobalValueData::VMContext);
    let limit = function.create_global_value(GlobalValueData::Load {
        base,
        offset: (offset_of!(Context, stack_limit) as i32).into(),
        global_type: types::I64,
        flags,
    });
    function.stack_limit = Some(limit);
}

struct Body<'f> {
    builder: FunctionBuilder<'f>,
    index: u32,
    k: u64,
    context: Value,
    a: Value,
    b: Value,
}

impl Body<'_> {
    fn constant(&mut self, value: u64) -> Value {
        self.builder.ins().iconst(types::I64, value as i64)
    }

    fn plus_k(&mut self, value: Value) -> Value {
        let k = self.constant(self.k);
        self.builder.ins().iadd(value, k)
    }

    fn xor_k(&mut self, value: Value) -> Value {
        let k = self.constant(self.k);
        self.builder.ins().bxor(value, k)
    }

    /// A field of the context, which the host keeps valid for the whole call: these loads cannot trap.
    fn field(&mut self, offset: usize) -> Value {
        self.builder.ins().load(types::I64, MemFlagsData::trusted(), self.context, offset as i32)
    }

    fn add(&mut self) -> Value {
        let sum = self.builder.ins().iadd(self.a, self.b);
        self.plus_k(sum)
    }

    fn checked_add(&mut self) -> Value {
        let sum = self.builder.ins().uadd_overflow_trap(self.a, self.b, cause::OVERFLOW);
        self.xor_k(sum)
    }

    fn divide(&mut self, kind: Kind) -> Value {
        let (a, b) = (self.a, self.b);
        let quotient = match kind {
            Kind::UnsignedDiv => self.builder.ins().udiv(a, b),
            Kind::SignedDiv => self.builder.ins().sdiv(a, b),
            Kind::UnsignedRem => self.builder.ins().urem(a, b),
            _ => self.builder.ins().srem(a, b),
        };
        self.xor_k(quotient)
    }

    fn truncate(&mut self) -> Value {
        let float = self.builder.ins().bitcast(types::F64, MemFlagsData::new(), self.a);
        let integer = self.builder.ins().fcvt_to_sint(types::I64, float);
        self.xor_k(integer)
    }

    /// An address in linear memory, WebAssembly style: 32 bits above a base that has 4 GiB reserved behind it, so that
    /// the access itself is the bounds check.
    fn linear_address(&mut self) -> Value {
        let narrow = self.builder.ins().ireduce(types::I32, self.a);
        let wide = self.builder.ins().uextend(types::I64, narrow);
        let base = self.field(offset_of!(Context, memory));
        self.builder.ins().iadd(base, wide)
    }

    fn load(&mut self) -> Value {
        let address = self.linear_address();
        let flags = MemFlagsData::new().with_trap_code(Some(cause::MEMORY));
        let loaded = self.builder.ins().load(types::I64, flags, address, 0);
        self.plus_k(loaded)
    }

    fn store(&mut self) -> Value {
        let address = self.linear_address();
        let value = self.xor_k(self.b);
        let flags = MemFlagsData::new().with_trap_code(Some(cause::MEMORY));
        self.builder.ins().store(flags, value, address, 0);
        self.plus_k(self.a)
    }

    fn file_load(&mut self) -> Value {
        let mask = self.constant(FILE_MAP as u64 - 1);
        let offset = self.builder.ins().band(self.a, mask);
        let base = self.field(offset_of!(Context, file));
        let address = self.builder.ins().iadd(base, offset);
        let flags = MemFlagsData::new().with_trap_code(Some(cause::MEMORY));
        let loaded = self.builder.ins().load(types::I64, flags, address, 0);
        self.plus_k(loaded)
    }

    fn unreachable(&mut self) -> Value {
        let (dead, alive) = (self.builder.create_block(), self.builder.create_block());
        let k = self.constant(self.k);
        let equal = self.builder.ins().icmp(IntCC::Equal, self.a, k);
        self.builder.ins().brif(equal, dead, &[], alive, &[]);
        self.builder.switch_to_block(dead);
        self.builder.ins().trap(cause::UNREACHABLE);
        self.builder.switch_to_block(alive);
        self.xor_k(self.a)
    }

    fn call_indirect(&mut self, signature_id: u64) -> Value {
        let flags = MemFlagsData::trusted();
        let length = self.field(offset_of!(Context, table_len));
        let outside = self.builder.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, self.a, length);
        self.builder.ins().trapnz(outside, cause::TABLE);
        let table = self.field(offset_of!(Context, table));
        let shift = self.constant(4);
        let offset = self.builder.ins().ishl(self.a, shift);
        let entry = self.builder.ins().iadd(table, offset);
        let code = self.builder.ins().load(types::I64, flags, entry, 0);
        self.builder.ins().trapz(code, cause::NULL_CALL);
        let found = self.builder.ins().load(types::I64, flags, entry, 8);
        let wanted = self.constant(signature_id);
        let differs = self.builder.ins().icmp(IntCC::NotEqual, found, wanted);
        self.builder.ins().trapnz(differs, cause::BAD_SIGNATURE);
        let k = self.constant(self.k);
        let result = self.call_address(code, self.b, k);
        self.plus_k(result)
    }

    fn call_host(&mut self) -> Value {
        let host = self.field(offset_of!(Context, host));
        let result = self.call_address(host, self.a, self.b);
        self.plus_k(result)
    }

    fn call_address(&mut self, code: Value, a: Value, b: Value) -> Value {
        let signature = self.import_signature();
        let call = self.builder.ins().call_indirect(signature, code, &[self.context, a, b]);
        self.builder.inst_results(call)[0]
    }

    fn import_signature(&mut self) -> SigRef {
        self.builder.import_signature(signature())
    }

    /// `f(a, b) = a == 0 ? b ^ k : f(a - 1, b + a) + k`: the addition after the call keeps it from being a loop.
    fn recurse(&mut self, frame: Option<u32>) -> Value {
        if let Some(size) = frame {
            let slot = self.builder.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, size, 4));
            self.builder.ins().stack_store(types::I64, self.b, slot, 0);
        }
        let (bottom, deeper, done) =
            (self.builder.create_block(), self.builder.create_block(), self.builder.create_block());
        let result = self.builder.append_block_param(done, types::I64);
        self.builder.ins().brif(self.a, deeper, &[], bottom, &[]);

        self.builder.switch_to_block(bottom);
        let last = self.xor_k(self.b);
        self.builder.ins().jump(done, &[BlockArg::Value(last)]);

        self.builder.switch_to_block(deeper);
        let name = self.builder.func.declare_imported_user_function(UserExternalName::new(0, self.index));
        let signature = self.import_signature();
        let itself = self.builder.import_function(ExtFuncData {
            name: ExternalName::user(name),
            signature,
            colocated: true,
            patchable: false,
        });
        let one = self.constant(1);
        let less = self.builder.ins().isub(self.a, one);
        let more = self.builder.ins().iadd(self.b, self.a);
        let call = self.builder.ins().call(itself, &[self.context, less, more]);
        let returned = self.builder.inst_results(call)[0];
        let sum = self.plus_k(returned);
        self.builder.ins().jump(done, &[BlockArg::Value(sum)]);

        self.builder.switch_to_block(done);
        result
    }

    /// `a` rounds of `x = rotl(x, 7) * k`, from `b`.
    fn spin(&mut self) -> Value {
        let (head, round, done) =
            (self.builder.create_block(), self.builder.create_block(), self.builder.create_block());
        let left = self.builder.append_block_param(head, types::I64);
        let x = self.builder.append_block_param(head, types::I64);
        let start = [BlockArg::Value(self.a), BlockArg::Value(self.b)];
        self.builder.ins().jump(head, &start);

        self.builder.switch_to_block(head);
        self.builder.ins().brif(left, round, &[], done, &[]);

        self.builder.switch_to_block(round);
        let seven = self.constant(7);
        let turned = self.builder.ins().rotl(x, seven);
        let k = self.constant(self.k);
        let next = self.builder.ins().imul(turned, k);
        let one = self.constant(1);
        let fewer = self.builder.ins().isub(left, one);
        let again = [BlockArg::Value(fewer), BlockArg::Value(next)];
        self.builder.ins().jump(head, &again);

        self.builder.switch_to_block(done);
        x
    }
}
