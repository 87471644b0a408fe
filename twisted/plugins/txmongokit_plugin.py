from twisted.application.service import ServiceMaker

mongosync = ServiceMaker(
    "txmongokit MongoDB replicator",
    "txmongokit.replicator.tap",
    "Replicate one MongoDB deployment into another.",
    "mongosync",
)

mongosessions = ServiceMaker(
    "txmongokit session store",
    "txmongokit.web.sessiontap",
    "Keep web sessions in MongoDB, and serve them over HTTP.",
    "mongosessions",
)
