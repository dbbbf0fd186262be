internal import Machine

extension Symbolizer {
    /// Call frame information for an address in the guest.
    struct CallFrame {
        var information: CallFrameInformation.Found
        /// What is added to an address as linked.
        var bias: UInt64
    }

    /// What the first image that says anything of an address's frame says; nil where none does.
    func callFrame(at address: UInt64) -> CallFrame? {
        for placement in SymbolImage.Placement.allCases {
            for image in images {
                guard let linked = image.linkedAddress(of: address, placement),
                    let found = image.callFrames?.rules(at: linked)
                else { continue }
                return CallFrame(information: found, bias: address &- linked)
            }
        }
        return nil
    }

    /// Where in the guest the function at an address begins; nil where no symbol says.
    func functionStart(of address: UInt64) -> UInt64? {
        symbolize(GuestVirtualAddress(address)).map { address &- $0.offset }
    }
}
