//! Engines, each set up as well as wasmtime allows for what it is measured at.

use std::num::NonZeroUsize;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Result, bail};

/// The engine of a setting.
pub fn engine(setting: &str) -> Result<Engine> {
    let mut config = Config::new();
    match setting {
        // As it comes: up to twenty frames are collected, and found in the store's modules.
        "backtrace" => {
            config.wasm_backtrace_max_frames(NonZeroUsize::new(20));
        }
        "plain" => {
            config.wasm_backtrace_max_frames(None);
        }
        "on-demand" => {
            config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
        }
        "pooling" => {
            let mut pool = PoolingAllocationConfig::new();
            // What was fastest of several settings: the first page of a memory stays with its slot and is cleared, the
            // rest is given back, in batches. Clearing all of it, or asking the kernel which pages were written, took
            // longer.
            pool.total_core_instances(100)
                .total_memories(100)
                .total_tables(100)
                .max_memory_size(1 << 20)
                .table_elements(1_000)
                .linear_memory_keep_resident(1 << 12)
                .table_keep_resident(1 << 14)
                .decommit_batch_size(16);
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        }
        _ => bail!("no setting is called {setting}"),
    }
    Engine::new(&config)
}
