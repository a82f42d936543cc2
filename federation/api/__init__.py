"""gRPC servicers: authenticate, translate, call the service, translate back. No decisions here."""
