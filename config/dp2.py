# extractCutouts on the images of Data Preview 2 (LSSTCam).
config.connections.inputImage = "visit_image"
config.input_storage_class = "VisitImage"
