public import Guest
public import Trace

extension LoadPlan {
    /// The load of a recorded guest, worked out again from the images that its trace holds.
    ///
    /// - Throws: ``ExecutionError/trace(_:)`` where they cannot be read,
    ///   ``ExecutionError/cannotReplay(_:)`` where there are none or they do not load as they did.
    public init(recordedIn reader: TraceReader) throws(ExecutionError) {
        let images = reader.header.images
        guard !images.isEmpty else {
            throw .cannotReplay(
                "\(reader.path): the trace holds no guest image, and cannot be replayed without")
        }
        var records: [GuestImageRecord] = []
        for (index, image) in images.enumerated() {
            let bytes = try trace { () throws(TraceError) in try reader.imageBytes(index) }
            records.append(
                GuestImageRecord(
                    name: image.name, kind: image.kind, bytes: bytes,
                    properties: image.properties.map { .init(key: $0.key, value: $0.value) }))
        }
        do throws(GuestError) { try self.init(records: records) } catch {
            throw .cannotReplay("\(reader.path): \(error)")
        }
    }
}
