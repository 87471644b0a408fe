from twisted.application.service import ServiceMaker

mongosync = ServiceMaker(
    "txmongokit MongoDB replicator",
    "txmongokit.replicator.tap",
    "Replicate one MongoDB deployment into another.",
    "mongosync",
)
