use super::*;

fn message(result: Result<(), CudaError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_launch_that_is_wrong_is_told_from_one_that_is_right() {
    let Some(emulator) = Emulator::new(0) else { return };
    let d = Device(emulator);
    let (x, y) = (d.f32(&[1.0; 40]), d.new(40, Dtype::Bf16));
    let args = |count: u64| [at(&x), at(&y), Arg::U64(count)];
    d.launch("cast_bf16", 1, 32, &args(40));
    assert!(
        message(d.try_launch("no_such", [1, 1], [32, 1], 0, &args(40)))
            .contains("no kernel of the name no_such")
    );
    assert!(
        message(d.try_launch("cast_bf16", [1, 1], [32, 1], 0, &args(40)[..2]))
            .contains("has 3 arguments, not 2")
    );
    assert!(message(d.try_launch("cast_bf16", [1, 1], [33, 1], 0, &args(40))).contains("whole warps"));
    assert!(message(d.try_launch("cast_bf16", [0, 1], [32, 1], 0, &args(40))).contains("an empty grid"));
    assert!(message(d.try_launch("cast_bf16", [1, 1], [32, 1], 1 << 20, &args(40))).contains("99 KiB"));
    let stray = [at(&x), Arg::Pointer(4096), Arg::U64(40)];
    assert!(
        message(d.try_launch("cast_bf16", [1, 1], [32, 1], 0, &stray))
            .contains("not within a live allocation")
    );
    // 41 elements: one past the end of y.
    assert!(
        message(d.try_launch("cast_bf16", [1, 1], [32, 1], 0, &args(41)))
            .contains("a write outside of an allocation")
    );
}
