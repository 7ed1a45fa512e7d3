# syntax=docker/dockerfile:1

FROM golang:1.26 AS build
WORKDIR /src
# Modules first: they change less often than the code.
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG VERSION=dev
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=${VERSION}" \
    -o /out/kubeforecaster ./cmd/kubeforecaster

# Nothing but the binary and the authorities that a Prometheus behind HTTPS is
# verified against: no shell, no package manager, no root.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/kubeforecaster /kubeforecaster
USER 65532:65532
EXPOSE 8080 6443
ENTRYPOINT ["/kubeforecaster"]
CMD ["serve"]
