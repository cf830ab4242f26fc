//! Templates, and the APIs that are read from them.

use proptest::prelude::*;

use super::*;
use crate::authorizer::IdentitySource;

const SAM: &str = r"
AWSTemplateFormatVersion: '2010-09-09'
Transform: AWS::Serverless-2016-10-31
Parameters:
  Stage: {Type: String, Default: prod}
Resources:
  Socket:
    Type: AWS::Serverless::WebSocketApi
    Properties:
      RouteSelectionExpression: $request.body.kind
      StageName: !Ref Stage
      Auth:
        AuthType: CUSTOM
        AuthArn: !GetAtt GuardFunction.Arn
        IdentitySource: [route.request.querystring.token]
      Routes:
        $connect: {FunctionArn: !GetAtt ChatFunction.Arn}
        join:
          FunctionArn: !Sub '${ChatFunction.Arn}'
          RouteResponseSelectionExpression: $default
  Http:
    Type: AWS::Serverless::HttpApi
    Properties:
      Auth:
        DefaultAuthorizer: Guard
        Authorizers:
          Guard:
            AuthorizerPayloadFormatVersion: '2.0'
            FunctionArn: !GetAtt GuardFunction.Arn
            Identity: {Headers: [Authorization]}
  ChatFunction:
    Type: AWS::Serverless::Function
    Metadata: {BuildMethod: rust-cargolambda, BuildProperties: {Binary: chat}}
    Properties: {FunctionName: my-chat}
  GuardFunction:
    Type: AWS::Serverless::Function
  ItemsFunction:
    Type: AWS::Serverless::Function
    Metadata: {BuildProperties: {Binary: items}}
    Properties:
      Events:
        One: {Type: HttpApi, Properties: {ApiId: !Ref Http, Method: get, Path: '/items/{id}'}}
        Open: {Type: HttpApi, Properties: {ApiId: !Ref Http, Method: GET, Path: /open, Auth: {Authorizer: NONE}}}
        Rest: {Type: HttpApi, Properties: {ApiId: !Ref Http}}
";

const PLAIN: &str = r#"
{"Resources": {
  "Api": {"Type": "AWS::ApiGatewayV2::Api", "Properties":
    {"ProtocolType": "WEBSOCKET", "RouteSelectionExpression": "$request.body.action"}},
  "Stage": {"Type": "AWS::ApiGatewayV2::Stage", "Properties": {"ApiId": {"Ref": "Api"}, "StageName": "dev"}},
  "Work": {"Type": "AWS::Lambda::Function", "Properties": {"FunctionName": "worker"}},
  "Integration": {"Type": "AWS::ApiGatewayV2::Integration", "Properties": {"ApiId": {"Ref": "Api"},
    "IntegrationUri": {"Fn::Sub": "arn:aws:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions/${Work.Arn}/invocations"}}},
  "Default": {"Type": "AWS::ApiGatewayV2::Route", "Properties": {"ApiId": {"Ref": "Api"}, "RouteKey": "$default",
    "AuthorizationType": "AWS_IAM", "Target": {"Fn::Join": ["/", ["integrations", {"Ref": "Integration"}]]}}}
}}"#;

fn routes(apis: &Apis) -> Vec<(&str, &str, bool)> {
    apis.routes
        .iter()
        .map(|(key, route)| (key, route.function.as_str(), route.is_two_way))
        .collect()
}

#[test]
fn reads_a_sam_template() {
    let apis = parse(SAM, FunctionNames::Binary).expect("a template");
    assert_eq!(apis.stage.as_deref(), Some("prod"));
    assert_eq!(routes(&apis), [("$connect", "chat", false), ("join", "chat", true)]);
    assert_eq!(apis.selection, Selection::parse("$request.body.kind").expect("an expression"));
    let guard = |source| Authorizer {
        function: "GuardFunction".to_owned(),
        identity_sources: vec![source],
    };
    assert_eq!(apis.authorizer, Some(guard(IdentitySource::Query("token".to_owned()))));
    let header = guard(IdentitySource::Header("Authorization".to_owned()));
    let http: Vec<_> = apis
        .http
        .as_slice()
        .iter()
        .map(|it| (it.key.as_str(), it.function.as_str(), it.authorizer.clone()))
        .collect();
    assert_eq!(
        http,
        [
            ("GET /items/{id}", "items", Some(header.clone())),
            ("GET /open", "items", None),
            ("$default", "items", Some(header)),
        ]
    );
    assert_eq!(apis.ignored, [""; 0]);
}

#[test]
fn functions_have_the_requested_kind_of_name() {
    let cases = [
        (FunctionNames::Binary, "chat"),
        (FunctionNames::LogicalId, "ChatFunction"),
        (FunctionNames::FunctionName, "my-chat"),
    ];
    for (names, expected) in cases {
        let apis = parse(SAM, names).expect("a template");
        assert_eq!(routes(&apis)[0].1, expected, "case: {names:?}");
    }
}

#[test]
fn reads_plain_resources_in_json_and_reports_what_is_ignored() {
    let apis = parse(PLAIN, FunctionNames::FunctionName).expect("a template");
    assert_eq!(apis.stage.as_deref(), Some("dev"));
    assert_eq!(routes(&apis), [("$default", "worker", false)]);
    assert_eq!(apis.ignored, ["authorization AWS_IAM of route $default"]);
}

#[test]
fn an_unusable_template_is_rejected_with_a_reason() {
    let lost = SAM.replace("!GetAtt ChatFunction.Arn", "arn:aws:lambda:eu-west-1:1:function:x");
    let cases = [
        ("", "it is empty"),
        ("a: [", "it is not YAML"),
        ("Resources: 7", "it has no Resources"),
        ("Resources: {}", "it has neither"),
        (lost.as_str(), "route $connect has no function of the template"),
    ];
    for (text, expected) in cases {
        let error = parse(text, FunctionNames::Binary).expect_err(expected);
        assert!(format!("{error:#}").contains(expected), "{error:#}");
    }
}

/// Returns the template with something else in place of a part.
fn damaged() -> impl Strategy<Value = String> {
    let other =
        "[-\\[\\]{}:!&*|>'\"$#,.a-zA-Z0-9 \n]{0,12}|\\PC{0,6}|!(Ref|Sub|GetAtt|If|Join) [a-z]*";
    (0..SAM.len(), 0..40_usize, other).prop_map(|(from, length, other)| {
        let mut text = SAM.to_owned();
        text.replace_range(from..(from + length).min(SAM.len()), &other);
        text
    })
}

proptest! {
    #[test]
    fn no_template_panics(text in damaged(), any in "\\PC{0,40}") {
        for text in [&text, &any] {
            match parse(text, FunctionNames::default()) {
                Ok(apis) => drop(apis.to_string()),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }
}
