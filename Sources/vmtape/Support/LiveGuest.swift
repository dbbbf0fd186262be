internal import Devices
internal import Execution
internal import Glibc
internal import Guest

/// What run and record share: the guest's devices connected to this terminal.
struct LiveGuest {
    let configuration: LiveConfiguration
    /// Reads the keyboard, where the guest has one.
    private let console: ConsoleSession?
    /// Ends the run when the user leaves the console.
    private let leave = LeaveRequest()

    /// 2026-01-01 00:00 UTC.
    private static let virtualStartDate: UInt64 = 1_767_225_600

    init(_ options: GuestOptions) throws(CommandFailure) {
        let plan = try attempt { () throws(GuestError) in try options.makePlan() }
        for note in plan.notes { Message.note("\(options.image): \(note)") }
        var configuration = LiveConfiguration(plan: plan)
        configuration.exitLimit = options.maxExits ?? .max
        configuration.cpu = options.cpu
        configuration.clock = options.clock.kind
        configuration.stall = options.stall.policy
        configuration.rewritesTimeStamp = options.tsc == .rewrite
        configuration.completesInstructions = !options.hasNoCompletions
        configuration.supervision.timeoutMilliseconds = options.timeout?.milliseconds
        self.configuration = configuration
        if options.serial == .stdio, options.input == nil {
            let leave = leave
            do throws(DeviceError) {
                console = try ConsoleSession { leave.request() }
            } catch {
                // A job in the background may not touch the terminal; the guest runs without keys.
                Message.note("\(error); the guest gets no input")
                console = nil
            }
        } else {
            console = nil
        }
    }

    /// The devices, connected. To be asked for once.
    func makeDevices(_ options: GuestOptions) throws(CommandFailure) -> DeviceSet {
        let target = Self.target(options.serial)
        let debugTarget = options.debugConsole.map(Self.target)
        let file = options.input
        var pc = PCConfiguration(configuration.plan)
        // A virtual clock starts at a date of its own, for two runs to be alike.
        pc.startDate =
            configuration.clock == .host ? UInt64(max(0, time(nil))) : Self.virtualStartDate
        let machine =
            options.machine?.machine ?? (configuration.plan.kind.expectsPC ? .pc : .bare)
        pc.offersFirmwareDMA = true
        pc.keys = Array(options.keys.utf8)
        let console = console
        return try attempt { () throws(LiveGuestError) in
            guard machine.isPC || configuration.plan.firmware == FirmwareInputs() else {
                throw .guest(
                    GuestError(
                        .badOption, options.image,
                        "fw_cfg belongs to a PC, and the machine is bare: add --machine pc"))
            }
            let input: ConsoleInput
            if let file {
                do throws(GuestError) {
                    input = ConsoleInput(bytes: try GuestFile(path: file).bytes)
                } catch  where error.kind == .empty {
                    // Nothing to type is something to say: --input /dev/null.
                    input = ConsoleInput()
                } catch { throw .guest(error) }
            } else {
                input = console?.input() ?? ConsoleInput()
            }
            do throws(DeviceError) {
                return try DeviceSet(
                    .init(
                        serial: target, debugConsole: debugTarget, machine: machine, pc: pc),
                    input: input)
            } catch { throw .device(error) }
        }
    }

    static func target(_ wanted: SerialTarget) -> ConsoleOutput.Target {
        switch wanted {
        case .stdio: .descriptor(STDOUT_FILENO, name: "standard output")
        case .none: .none
        case .file(let path): .file(path)
        }
    }

    /// Callbacks for the session: an abort gives the terminal back first.
    func callbacks(
        stop: StopRequest, tick: @escaping @Sendable (UInt64) -> Void = { _ in }
    ) -> SessionCallbacks {
        leave.connect(stop)
        return SessionCallbacks(
            abort: { signal in
                ConsoleTerminal.restore()
                _exit(128 + signal)
            }, tick: tick)
    }

    /// Gives the terminal back.
    func close() { console?.stop() }
}

/// What can go wrong in connecting devices.
enum LiveGuestError: Error, CustomStringConvertible {
    case guest(GuestError)
    case device(DeviceError)

    var description: String {
        switch self {
        case .guest(let error): error.description
        case .device(let error): error.description
        }
    }
}
