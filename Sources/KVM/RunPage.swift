internal import CKVM
internal import Machine

/// The memory that a vCPU shares with the kernel (`struct kvm_run` and the bytes of port I/O).
///
/// The kernel writes it only inside KVM_RUN, which the owner calls; of other threads only a kick
/// touches it (`immediate_exit`, atomically).
@unsafe struct RunPage {
    /// Valid for `byteCount` bytes, aligned to 8, for as long as the owner of this value says.
    let base: UnsafeMutableRawPointer
    /// The size of the mapping, at least `sizeof(struct kvm_run)`.
    let byteCount: Int

    // SAFETY (whole type): `base` points to `byteCount` bytes, at least a struct kvm_run, that
    // stay mapped while a value of this type is in use; every offset below is either a
    // compile-time offset in struct kvm_run or checked against `byteCount`.

    @inline(__always)
    var run: UnsafeMutablePointer<kvm_run> {
        unsafe base.assumingMemoryBound(to: kvm_run.self)
    }

    /// Decodes the exit on the page. Any bytes whatever give an exit.
    @inline(__always)
    func decodeExit() -> Exit {
        // SAFETY: see the type.
        let run = unsafe self.run
        let reason = unsafe ckvm_exit_reason(run)
        switch reason {
        case UInt32(KVM_EXIT_IO):
            guard let io = unsafe decodeIO() else { return .other(.io) }
            return .io(io)
        case UInt32(KVM_EXIT_MMIO):
            guard let mmio = unsafe decodeMMIO() else { return .other(.mmio) }
            return .mmio(mmio)
        case UInt32(KVM_EXIT_HLT): return .hlt
        case UInt32(KVM_EXIT_IRQ_WINDOW_OPEN): return .irqWindowOpen
        case UInt32(KVM_EXIT_SHUTDOWN): return .shutdown
        default: return unsafe decodeRareExit(reason)
        }
    }

    /// Decodes the exit on the page without making a whole ``Exit`` of the frequent ones.
    @inline(__always)
    func decodeStep(other: inout Exit) -> RunStep {
        // SAFETY: see the type.
        let reason = unsafe ckvm_exit_reason(run)
        if reason == UInt32(KVM_EXIT_IO), let io = unsafe decodeIO() { return .io(io) }
        if reason == UInt32(KVM_EXIT_MMIO), let mmio = unsafe decodeMMIO() { return .mmio(mmio) }
        other = unsafe decodeExit()
        return .other
    }

    @inline(__always)
    private func decodeMMIO() -> MMIO? {
        // SAFETY: see the type.
        let run = unsafe self.run
        let size = unsafe ckvm_mmio_len(run)
        guard size >= 1, size <= 8 else { return nil }
        return MMIO(
            address: GuestPhysicalAddress(unsafe ckvm_mmio_address(run)), size: UInt8(size),
            isWrite: unsafe ckvm_mmio_is_write(run) != 0)
    }

    @inline(__always)
    private func decodeIO() -> PortIO? {
        // SAFETY: see the type.
        let run = unsafe self.run
        let size = unsafe ckvm_io_size(run)
        let count = unsafe ckvm_io_count(run)
        let offset = unsafe ckvm_io_data_offset(run)
        guard size == 1 || size == 2 || size == 4, count > 0,
            let direction = PortIO.Direction(rawValue: unsafe ckvm_io_direction(run)),
            offset <= UInt64(unsafe byteCount),
            UInt64(size) * UInt64(count) <= UInt64(unsafe byteCount) - offset
        else { return nil }
        return PortIO(
            direction: direction, size: size, port: unsafe ckvm_io_port(run), count: count,
            dataOffset: Int(offset))
    }

    @inline(never)
    private func decodeRareExit(_ number: UInt32) -> Exit {
        // SAFETY: see the type.
        let run = unsafe self.run
        switch ExitReason(rawValue: number) {
        case .unknown: return .unknown(hardwareReason: unsafe ckvm_hw_reason(run))
        case .exception:
            return .exception(
                vector: unsafe ckvm_ex_vector(run), errorCode: unsafe ckvm_ex_error_code(run))
        case .hypercall:
            return .hypercall(
                Hypercall(
                    number: unsafe ckvm_hypercall_nr(run),
                    arguments: InlineArray { unsafe ckvm_hypercall_arg(run, UInt32($0)) },
                    isLongMode: unsafe ckvm_hypercall_longmode(run) != 0))
        case .debug:
            return .debug(
                DebugStop(
                    exception: unsafe ckvm_debug_exception(run),
                    pc: GuestVirtualAddress(unsafe ckvm_debug_pc(run)),
                    dr6: unsafe ckvm_debug_dr6(run), dr7: unsafe ckvm_debug_dr7(run)))
        case .failEntry:
            return .failEntry(
                hardwareReason: unsafe ckvm_fail_reason(run), cpu: unsafe ckvm_fail_cpu(run))
        case .intr: return .intr
        case .setTPR: return .setTPR
        case .tprAccess:
            return .tprAccess(
                rip: unsafe ckvm_tpr_rip(run), isWrite: unsafe ckvm_tpr_is_write(run) != 0)
        case .nmi: return .nmi
        case .internalError:
            return .internalError(
                InternalError(
                    suberror: unsafe ckvm_internal_suberror(run),
                    count: min(16, Int(unsafe ckvm_internal_ndata(run))),
                    data: InlineArray { unsafe ckvm_internal_data(run, UInt32($0)) }))
        case .systemEvent:
            return .systemEvent(
                SystemEvent(
                    type: unsafe ckvm_event_type(run),
                    count: min(16, Int(unsafe ckvm_event_ndata(run))),
                    data: InlineArray { unsafe ckvm_event_data(run, UInt32($0)) }))
        case .ioapicEOI: return .ioapicEOI(vector: unsafe ckvm_eoi_vector(run))
        case .hyperv: return .hyperv(type: unsafe ckvm_hyperv_type(run))
        case .rdmsr:
            return .rdmsr(
                MSRAccess(
                    index: unsafe ckvm_msr_index(run), cause: unsafe ckvm_msr_reason(run),
                    value: 0))
        case .wrmsr:
            return .wrmsr(
                MSRAccess(
                    index: unsafe ckvm_msr_index(run), cause: unsafe ckvm_msr_reason(run),
                    value: unsafe ckvm_msr_data(run)))
        case .dirtyRingFull: return .dirtyRingFull
        case ExitReason(rawValue: UInt32(KVM_EXIT_AP_RESET_HOLD)): return .apResetHold
        case .busLock: return .busLock
        case .xen: return .xen(type: unsafe ckvm_xen_type(run))
        case .notify: return .notify(flags: unsafe ckvm_notify_flags(run))
        case .memoryFault:
            return .memoryFault(
                MemoryFault(
                    flags: unsafe ckvm_payload_word(run, 0),
                    address: GuestPhysicalAddress(unsafe ckvm_payload_word(run, 1)),
                    size: unsafe ckvm_payload_word(run, 2)))
        case ExitReason(rawValue: UInt32(CKVM_EXIT_TDX)):
            return .tdx(
                flags: unsafe ckvm_payload_word(run, 0), number: unsafe ckvm_payload_word(run, 1))
        default: return .other(ExitReason(rawValue: number))
        }
    }

    /// The 256 bytes of payload that every exit has.
    var payload: UnsafeMutableRawBufferPointer {
        // SAFETY: a compile-time offset in struct kvm_run.
        unsafe UnsafeMutableRawBufferPointer(
            start: base + Int(CKVM_PAYLOAD_OFFSET),
            count: Int(CKVM_PAYLOAD_BYTES))
    }

    /// The bytes of the port I/O on the page; empty where the exit is none.
    @inline(__always)
    var ioData: UnsafeMutableRawBufferPointer {
        // SAFETY: decodeIO() gives only ranges that lie in the page.
        guard unsafe ckvm_exit_reason(run) == UInt32(KVM_EXIT_IO), let io = unsafe decodeIO() else {
            return unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
        }
        return unsafe UnsafeMutableRawBufferPointer(
            start: base + io.dataOffset, count: io.byteCount)
    }

    /// The bytes of the MMIO on the page; empty where the exit is none.
    @inline(__always)
    var mmioData: UnsafeMutableRawBufferPointer {
        // SAFETY: the array has 8 bytes, and the size is checked.
        let size = unsafe ckvm_mmio_len(run)
        guard unsafe ckvm_exit_reason(run) == UInt32(KVM_EXIT_MMIO), size >= 1, size <= 8 else {
            return unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
        }
        return unsafe UnsafeMutableRawBufferPointer(
            start: base + Int(CKVM_MMIO_DATA_OFFSET), count: Int(size))
    }

    var registers: UnsafeMutablePointer<GeneralRegisters> {
        // SAFETY: GeneralRegisters has the layout of struct kvm_regs; the offset is 8-aligned.
        unsafe (base + Int(CKVM_REGS_OFFSET))
            .assumingMemoryBound(to: GeneralRegisters.self)
    }

    var systemRegisters: UnsafeMutablePointer<SystemRegisters> {
        // SAFETY: SystemRegisters has the layout of struct kvm_sregs; the offset is 8-aligned.
        unsafe (base + Int(CKVM_SREGS_OFFSET))
            .assumingMemoryBound(to: SystemRegisters.self)
    }

    var events: UnsafeMutablePointer<VCPUEvents> {
        // SAFETY: VCPUEvents has the layout of struct kvm_vcpu_events; the offset is 8-aligned.
        unsafe (base + Int(CKVM_EVENTS_OFFSET))
            .assumingMemoryBound(to: VCPUEvents.self)
    }
}

/// Owns the mapping of a run page, and what a kick needs to find it.
///
/// Shared by the vCPU and its kickers: whoever is last unmaps it.
@safe final class RunPageMapping: @unchecked Sendable {
    // Sendable: the two pointers never change, and what other threads do with them is atomic.
    let page: RunPage
    let kick: OpaquePointer

    init(vcpu: borrowing FileDescriptor, byteCount: Int) throws(KVMError) {
        var error = 0
        // SAFETY: the result is checked; the mapping is this object's own until deinit.
        guard let base = unsafe ckvm_map_run_page(vcpu.number, byteCount, &error) else {
            throw KVMError.failure(error, "mmap of the vCPU's run page")
        }
        let page = unsafe RunPage(base: base, byteCount: byteCount)
        guard let kick = unsafe ckvm_kick_open(page.run) else {
            unsafe ckvm_unmap(base, byteCount)
            throw .request("allocating a kick", errno: 12)
        }
        unsafe self.page = page
        unsafe self.kick = kick
    }

    deinit {
        // SAFETY: no one else holds this object, so no kick is under way.
        unsafe ckvm_kick_close(kick)
        unsafe ckvm_unmap(page.base, page.byteCount)
    }
}
